"""The databases of all actors, seen from the host: are they at this version, and how they are moved."""

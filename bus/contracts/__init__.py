"""What the parts say to each other, one module an actor (two where it owns two things); `every` has them all."""

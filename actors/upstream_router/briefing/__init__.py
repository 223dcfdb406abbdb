"""Which prompts a briefing gives for a task: chosen by tags and words, or by a model."""

"""What deciders see of an utterance, and where it is kept."""

"""Deciders compared on one's own speech: cross-validated over speakers, resumable, one table."""

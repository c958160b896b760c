"""Corpora: from tables of audio and transcripts to the manifest."""

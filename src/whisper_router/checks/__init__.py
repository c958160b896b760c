"""Expectations on what the stages make, with Great Expectations."""

"""Deciders: architectures, training, and their folders."""

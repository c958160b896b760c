"""Learns from a team's own audio when the small Whisper is good enough, and serves that decision."""

"""The user's process: what the warm-up borrows there, and gives back as it was."""

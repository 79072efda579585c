"""One question per file; each has a STUDY and says how to run it."""

"""Tasks that ask about the frames of a clip."""

"""Small tokenizers that come with the package, and how they were trained: a one-dimensional one and a grid of codes."""

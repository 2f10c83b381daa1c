"""Video and image files: in, out, and the sound between them."""

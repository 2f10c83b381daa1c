"""Video and image files: in, out, and the sound between them. `sama_video.video` has the chief names."""

# Modules, imported when they are asked for.
# pyright: reportUnsupportedDunderAll=false
__all__ = ["carry", "detail", "metrics", "naming", "opening", "packets", "pictures", "reader", "tracks", "writer"]

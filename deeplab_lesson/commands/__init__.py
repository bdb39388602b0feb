"""The commands of `deeplab-lesson`, a file each. What they import that is slow loads when they run."""

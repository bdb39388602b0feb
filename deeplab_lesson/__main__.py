"""`python -m deeplab_lesson` is the command `deeplab-lesson`."""

import sys

from deeplab_lesson.cli import main

if __name__ == "__main__":
    sys.exit(main())

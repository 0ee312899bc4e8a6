"""`python -m audio_lens`: the same as the `audio-lens` command."""

import sys

from audio_lens.cli import main

if __name__ == "__main__":
    sys.exit(main())

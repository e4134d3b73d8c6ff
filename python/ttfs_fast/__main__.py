"""``python -m ttfs_fast`` is the command ``ttfs-fast``."""

from ttfs_fast.cli import main

if __name__ == "__main__":
    main()

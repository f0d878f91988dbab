"""``python -m wgan_sweep`` is ``wgan-sweep``."""

from wgan_sweep.cli import main

if __name__ == "__main__":
    main()

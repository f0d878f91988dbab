"""``python -m wgan_sweep`` is ``wgan-sweep``."""

from wgan_sweep.commands.sweep import main

if __name__ == "__main__":
    main()

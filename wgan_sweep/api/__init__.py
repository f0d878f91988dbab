"""The Python API: what `import wgan_sweep` offers. See `wgan_sweep.__all__`."""

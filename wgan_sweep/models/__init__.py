"""Models: pairs of a generator and a critic, built for a data shape."""

from wgan_sweep.models.constant_width import ConstantWidthResNet
from wgan_sweep.models.dcgan import DCGAN
from wgan_sweep.models.gaussian import Gaussian
from wgan_sweep.models.location import Location
from wgan_sweep.models.mlp import MLP
from wgan_sweep.models.resnet import ResNet

__all__ = ["DCGAN", "MLP", "ConstantWidthResNet", "Gaussian", "Location", "ResNet"]

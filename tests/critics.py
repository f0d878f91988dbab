"""Critics that the rules for fast double backward were not written for: layers and constructions that users bring."""

import warnings
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

Forward = Callable[[nn.Module, Tensor], Tensor]
IMAGES, SEQUENCES, VECTORS, VOLUMES = (2, 6, 6), (5, 4), (6,), (1, 4, 4, 4)


class Head(nn.Module):
    """The mean of a smooth function of all features: ``[N, ...]`` to ``[N]``, for any number of features."""

    def forward(self, features: Tensor) -> Tensor:
        return (torch.tanh(features) + 0.1 * features.square()).flatten(1).mean(1)


class FunctionalCritic(nn.Module):
    """A critic whose forward pass is a function of the module and the input ``[N, ...]``."""

    def __init__(self, forward: Forward, **members: nn.Module | Tensor) -> None:
        super().__init__()
        self._function, self.head = forward, Head()
        for name, member in members.items():
            setattr(self, name, nn.Parameter(member) if isinstance(member, Tensor) else member)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._function(self, x))


def conv(inputs: int = 4, outputs: int = 4, size: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def between(*layers: nn.Module) -> nn.Module:
    """Layers with a convolution and a slope before, and a convolution after them."""
    return nn.Sequential(conv(2), nn.LeakyReLU(0.2), *layers, conv(), Head())


def pre_activation(activate: Callable[[Tensor], Tensor]) -> nn.Module:
    """A block that adds its input after an activation that may have changed it in place."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = m.first(x)
        return m.second(activate(h)) + h

    return FunctionalCritic(forward, first=conv(2), second=conv())


def view_in_place(m: nn.Module, x: Tensor) -> Tensor:
    h = m.first(x)
    F.relu(h[:, :2], inplace=True)
    return m.second(h)


def changed_after_activation(m: nn.Module, x: Tensor) -> Tensor:
    h = m.first(x)
    activated = F.relu(h)
    h.add_(1)
    return m.second(activated) + h


def accumulated_in_place(m: nn.Module, x: Tensor) -> Tensor:
    h = m.first(x)
    h += m.second(F.relu(h))
    return F.relu(h, inplace=True).mul(2)


def conditional_convolution(m: nn.Module, x: Tensor) -> Tensor:
    """CondConv: each example mixes its own kernel from three; all examples in one grouped convolution."""
    h = F.leaky_relu(m.first(x), 0.2)
    kernels = torch.einsum("ne,eoihw->noihw", m.route(h.mean((2, 3))).softmax(1), m.kernels)
    biases = m.bias(h.mean((2, 3)))
    n, c = h.shape[:2]
    grouped = F.conv2d(h.reshape(1, n * c, *h.shape[2:]), kernels.flatten(0, 1), biases.flatten(), padding=1, groups=n)
    return grouped.view(n, c, *h.shape[2:])


def dynamic_weight(m: nn.Module, x: Tensor) -> Tensor:
    h = F.relu(m.first(x))
    return F.conv2d(h, m.kernel * (1 + h.mean()), m.shift, stride=2)


def dynamic_bias(m: nn.Module, x: Tensor) -> Tensor:
    h = F.relu(m.first(x))
    return F.conv2d(h, m.kernel, m.shift * h.square().mean((0, 2, 3)), padding=1)


def filters_for_a_constant(m: nn.Module, x: Tensor) -> Tensor:
    """Filters that depend on the points, applied to a learned image that does not."""
    filters = m.first(x).mean((2, 3)).view(-1, 1, 2, 2)
    return F.conv2d(m.image, filters).view(len(x), -1)


def points_as_filters(m: nn.Module, x: Tensor) -> Tensor:
    return F.conv2d(m.image, x, padding=2).view(len(x), -1) * m.scale


def adaptive_gain(m: nn.Module, x: Tensor) -> Tensor:
    h = m.first(x)
    gain, bias = m.affine(h.mean((0, 2, 3))).chunk(2)
    return m.second(F.group_norm(h, 1, 1 + gain, bias))


def adaptive_instance_norm(m: nn.Module, x: Tensor) -> Tensor:
    h = m.first(x)
    gain, bias = m.affine(h.mean((2, 3)))[:, :, None, None].chunk(2, 1)
    return m.second(F.instance_norm(h) * gain + bias)


def squeeze_and_excite(m: nn.Module, x: Tensor) -> Tensor:
    h = F.relu(m.first(x))
    return h * torch.sigmoid(m.affine(h.mean((2, 3))))[:, :, None, None]


def attention(m: nn.Module, x: Tensor) -> Tensor:
    q, k, v = m.affine(x).view(*x.shape[:2], 2, 6).transpose(1, 2).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v)


def mapped_attention(m: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(lambda example: F.scaled_dot_product_attention(*m.affine(example).chunk(3, -1)))(x)


def attention_of_pixels(m: nn.Module, x: Tensor) -> Tensor:
    h = F.leaky_relu(m.first(x), 0.2)
    q, k, v = (layer(h).flatten(2) for layer in (m.q, m.k, m.v))
    return h + m.gate * (v @ (q.transpose(1, 2) @ k).softmax(-1)).view_as(h)


def transposed_features(m: nn.Module, x: Tensor) -> Tensor:
    return m.second(F.leaky_relu(m.norm(m.first(x).transpose(2, 3)), 0.2))


def permuted_features(m: nn.Module, x: Tensor) -> Tensor:
    return m.norm(m.affine(m.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).sum((2, 3))


def checkpointed(*layers: nn.Module) -> nn.Module:
    return FunctionalCritic(
        lambda m, x: checkpoint(m.block, m.first(x), use_reentrant=False), first=conv(2), block=nn.Sequential(*layers)
    )


def one_by_one(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([m.body(example) for example in x])


def mapped(m: nn.Module, x: Tensor) -> Tensor:
    return torch.vmap(m.body)(x)


def recurrent(m: nn.Module, x: Tensor) -> Tensor:
    return m.cell(x)[0]


def nearest_embedding(m: nn.Module, x: Tensor) -> Tensor:
    """A projection critic: the features times the embedding of the class that they are nearest to."""
    h = m.first(x).mean((2, 3))
    return h * m.embedding(h.argmax(1)) + m.affine(h)


def minibatch_deviation(m: nn.Module, x: Tensor) -> Tensor:
    h = F.leaky_relu(m.first(x), 0.2)
    deviation = (h.var(0) + 1e-8).sqrt().mean()
    return m.second(torch.cat([h, deviation.expand(len(h), 1, *h.shape[2:])], 1))


def minibatch_similarity(m: nn.Module, x: Tensor) -> Tensor:
    h = m.first(x).flatten(1)
    return torch.cat([h, (-(h[:, None] - h).abs().sum(2)).exp().sum(1, keepdim=True)], 1)


def standardised_weight(m: nn.Module, x: Tensor) -> Tensor:
    w = m.kernel
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
    return F.leaky_relu(F.conv2d(F.leaky_relu(m.first(x), 0.2), w, m.shift, padding=1), 0.2)


def generated_weight(m: nn.Module, x: Tensor) -> Tensor:
    """A hypernetwork: the kernel depends on parameters, but not on the points."""
    return F.conv2d(F.relu(m.first(x)), m.affine(m.code).view(4, 4, 3, 3), padding=(1,), stride=(2,))


def applied_twice(m: nn.Module, x: Tensor) -> Tensor:
    h = m.first(x)
    return m.second(F.relu(m.second(F.relu(h))))


def learned_image(m: nn.Module, x: Tensor) -> Tensor:
    return m.first(x) * m.second(m.image)


def fourier(m: nn.Module, x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(m.first(x))
    return torch.cat([spectrum.real, m.second(spectrum.abs())], 1)


def own_gradient(m: nn.Module, x: Tensor) -> Tensor:
    """The gradient of a potential."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        potential = torch.tanh(m.second(F.leaky_relu(m.first(x), 0.2))).sum()
        return torch.autograd.grad(potential, x, create_graph=True)[0]


def own_gradient_of_a_part(m: nn.Module, x: Tensor) -> Tensor:
    """The gradient of a potential that the points enter twice."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        potential = (torch.tanh(m.first(x)).mean(1, keepdim=True) + x.square()).sum()
        return torch.autograd.grad(potential, x, create_graph=True)[0]


def gradient_of_a_transform(m: nn.Module, x: Tensor) -> Tensor:
    return torch.func.grad(lambda y: torch.tanh(m.body(y)).sum())(x)


def maximum_of_two(m: nn.Module, x: Tensor) -> Tensor:
    return torch.maximum(*m.first(x).chunk(2, 1)).sort(1).values


def resampled(m: nn.Module, x: Tensor) -> Tensor:
    h = F.max_pool2d(m.first(x), 2)
    h = F.interpolate(h, scale_factor=2, mode="bilinear")
    return F.adaptive_avg_pool2d(m.second(F.pixel_shuffle(F.pixel_unshuffle(h, 2), 2)), 2)


def unfolded(m: nn.Module, x: Tensor) -> Tensor:
    return m.affine(F.unfold(x, 3).transpose(1, 2))


def dense(m: nn.Module, x: Tensor) -> Tensor:
    h = m.first(x)
    return m.second(torch.cat([h, F.relu(h), F.leaky_relu(h, -0.5), -h], 1))


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        first = nn.utils.weight_norm(conv(2))
    return FunctionalCritic(lambda m, x: m.second(F.relu(m.first(x))), first=first, second=conv())


def old_spectral_norm() -> nn.Module:
    return between(nn.utils.spectral_norm(conv()))


def gated(m: nn.Module, x: Tensor) -> Tensor:
    """A residual branch that its gate turns off at first, in place."""
    h = m.first(x)
    return m.gate * m.second(F.relu(h, inplace=True)) + h


def quadratic(m: nn.Module, x: Tensor) -> Tensor:
    return torch.einsum("ni,ij,nj->n", x, m.matrix, x).unsqueeze(1)


def seeded_dropout(m: nn.Module, x: Tensor) -> Tensor:
    return m.second(F.dropout(F.relu(m.first(x)), 0.3))


def mlp(*activations: nn.Module) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(6, 8)]
    for activation in activations:
        layers += [activation, nn.Linear(8, 8)]
    return nn.Sequential(*layers, Head())


def randn(*shape: int) -> Tensor:
    return 0.3 * torch.randn(*shape)


Make = Callable[[], nn.Module]
FAST: dict[str, tuple[Make, Sequence[int]]] = {
    "in place: ReLU after a convolution": (lambda: between(nn.ReLU(inplace=True)), IMAGES),
    "in place: pre-activation, ReLU": (lambda: pre_activation(nn.ReLU(inplace=True)), IMAGES),
    "in place: pre-activation, LeakyReLU": (lambda: pre_activation(nn.LeakyReLU(0.2, inplace=True)), IMAGES),
    "in place: pre-activation, torch.relu_": (lambda: pre_activation(torch.relu_), IMAGES),
    "in place: pre-activation, ELU": (lambda: pre_activation(nn.ELU(inplace=True)), IMAGES),
    "in place: views": (lambda: FunctionalCritic(view_in_place, first=conv(2), second=conv()), IMAGES),
    "in place: sums": (lambda: FunctionalCritic(accumulated_in_place, first=conv(2), second=conv()), IMAGES),
    "in place: input of an earlier ReLU": (
        lambda: FunctionalCritic(changed_after_activation, first=conv(2), second=conv()),
        IMAGES,
    ),
    "in place: gated branch": (
        lambda: FunctionalCritic(gated, first=conv(2), second=conv(), gate=torch.zeros(1)),
        IMAGES,
    ),
    "dynamic: CondConv": (
        lambda: FunctionalCritic(
            conditional_convolution,
            first=conv(2),
            route=nn.Linear(4, 3),
            bias=nn.Linear(4, 4),
            kernels=randn(3, 4, 4, 3, 3),
        ),
        IMAGES,
    ),
    "dynamic: weight": (
        lambda: FunctionalCritic(dynamic_weight, first=conv(2), kernel=randn(4, 4, 3, 3), shift=randn(4)),
        IMAGES,
    ),
    "dynamic: bias": (
        lambda: FunctionalCritic(dynamic_bias, first=conv(2), kernel=randn(4, 4, 3, 3), shift=randn(4)),
        IMAGES,
    ),
    "dynamic: filters for a constant": (
        lambda: FunctionalCritic(filters_for_a_constant, first=conv(2), image=randn(1, 1, 5, 5)),
        IMAGES,
    ),
    "dynamic: points as filters": (
        lambda: FunctionalCritic(points_as_filters, image=randn(1, 2, 5, 5), scale=randn(1)),
        IMAGES,
    ),
    "dynamic: gain of a layer norm": (
        lambda: FunctionalCritic(adaptive_gain, first=conv(2), affine=nn.Linear(4, 8), second=conv()),
        IMAGES,
    ),
    "dynamic: instance norm": (
        lambda: FunctionalCritic(adaptive_instance_norm, first=conv(2), affine=nn.Linear(4, 8), second=conv()),
        IMAGES,
    ),
    "dynamic: squeeze and excite": (
        lambda: FunctionalCritic(squeeze_and_excite, first=conv(2), affine=nn.Linear(4, 4)),
        IMAGES,
    ),
    "attention: functional": (lambda: FunctionalCritic(attention, affine=nn.Linear(4, 12)), SEQUENCES),
    "attention: in a vmap": (lambda: FunctionalCritic(mapped_attention, affine=nn.Linear(4, 12)), SEQUENCES),
    "attention: MultiheadAttention": (
        lambda: FunctionalCritic(
            lambda m, x: m.cell(x, x, x, need_weights=False)[0], cell=nn.MultiheadAttention(4, 2, batch_first=True)
        ),
        SEQUENCES,
    ),
    "attention: TransformerEncoderLayer": (
        lambda: FunctionalCritic(
            lambda m, x: m.cell(x), cell=nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True)
        ),
        SEQUENCES,
    ),
    "attention: of pixels": (
        lambda: FunctionalCritic(
            attention_of_pixels, first=conv(2), q=conv(4, 2, 1), k=conv(4, 2, 1), v=conv(4, 4, 1), gate=randn(1)
        ),
        IMAGES,
    ),
    "convolution: transposed": (lambda: between(nn.ConvTranspose2d(4, 4, 4, 2, 1)), IMAGES),
    "convolution: grouped": (lambda: between(conv(groups=2)), IMAGES),
    "convolution: separable, dilated": (
        lambda: between(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4, bias=False), conv(size=1)),
        IMAGES,
    ),
    "convolution: one dimension": (
        lambda: FunctionalCritic(
            lambda m, x: m.second(F.relu(m.first(x))), first=nn.Conv1d(5, 4, 3), second=nn.Conv1d(4, 2, 1)
        ),
        SEQUENCES,
    ),
    "convolution: three dimensions": (
        lambda: FunctionalCritic(
            lambda m, x: m.second(F.relu(m.first(x))), first=nn.Conv3d(1, 3, 2), second=nn.Conv3d(3, 2, 2)
        ),
        VOLUMES,
    ),
    "convolution: same padding": (lambda: between(nn.Conv2d(4, 4, (3, 5), padding="same")), IMAGES),
    "convolution: reflected padding": (lambda: between(conv(padding_mode="reflect")), IMAGES),
    "convolution: unbatched": (
        lambda: FunctionalCritic(one_by_one, body=nn.Sequential(conv(2), nn.ReLU(), conv())),
        IMAGES,
    ),
    "convolution: applied twice": (lambda: FunctionalCritic(applied_twice, first=conv(2), second=conv()), IMAGES),
    "convolution: channels last": (
        lambda: between(conv(), nn.GroupNorm(1, 4), nn.ReLU()).to(memory_format=torch.channels_last),
        IMAGES,
    ),
    "convolution: of a learned image": (
        lambda: FunctionalCritic(learned_image, first=conv(2), second=conv(2), image=randn(1, 2, 6, 6)),
        IMAGES,
    ),
    "norm: BatchNorm": (lambda: between(nn.BatchNorm2d(4)), IMAGES),
    "norm: BatchNorm, evaluation": (lambda: between(nn.BatchNorm2d(4)).eval(), IMAGES),
    "norm: InstanceNorm": (lambda: between(nn.InstanceNorm2d(4, affine=True)), IMAGES),
    "norm: LayerNorm": (lambda: between(nn.LayerNorm([4, 6, 6])), IMAGES),
    "norm: RMSNorm": (lambda: between(nn.RMSNorm([4, 6, 6])), IMAGES),
    "norm: LocalResponseNorm": (lambda: between(nn.LocalResponseNorm(3)), IMAGES),
    "norm: GroupNorm, one group": (lambda: between(nn.GroupNorm(1, 4)), IMAGES),
    "norm: GroupNorm, two groups": (lambda: between(nn.GroupNorm(2, 4)), IMAGES),
    "norm: GroupNorm, vectors": (
        lambda: FunctionalCritic(
            lambda m, x: m.second(F.relu(m.norm(m.first(x)))),
            first=nn.Linear(6, 8),
            norm=nn.GroupNorm(1, 8),
            second=nn.Linear(8, 3),
        ),
        VECTORS,
    ),
    "norm: GroupNorm, volumes": (
        lambda: FunctionalCritic(lambda m, x: m.norm(m.first(x)), first=nn.Conv3d(1, 3, 2), norm=nn.GroupNorm(1, 3)),
        VOLUMES,
    ),
    "norm: GroupNorm of transposed features": (
        lambda: FunctionalCritic(transposed_features, first=conv(2), norm=nn.GroupNorm(1, 4), second=conv()),
        IMAGES,
    ),
    "norm: GroupNorm of permuted features": (
        lambda: FunctionalCritic(permuted_features, first=conv(2), affine=nn.Linear(4, 4), norm=nn.GroupNorm(1, 4)),
        IMAGES,
    ),
    "norm: weight norm": (lambda: between(parametrizations.weight_norm(conv())), IMAGES),
    "norm: weight norm, by a hook": (old_weight_norm, IMAGES),
    "norm: spectral norm": (lambda: between(parametrizations.spectral_norm(conv())), IMAGES),
    "norm: spectral norm, by a hook": (old_spectral_norm, IMAGES),
    "norm: weight standardisation": (
        lambda: FunctionalCritic(standardised_weight, first=conv(2), kernel=randn(4, 4, 3, 3), shift=randn(4)),
        IMAGES,
    ),
    "norm: orthogonal weight": (
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 4), Head()),
        VECTORS,
    ),
    "hypernetwork": (
        lambda: FunctionalCritic(generated_weight, first=conv(2), affine=nn.Linear(3, 144), code=randn(3)),
        IMAGES,
    ),
    "recurrent: GRU": (lambda: FunctionalCritic(recurrent, cell=nn.GRU(4, 3, batch_first=True)), SEQUENCES),
    "recurrent: LSTM": (lambda: FunctionalCritic(recurrent, cell=nn.LSTM(4, 3, 2, batch_first=True)), SEQUENCES),
    "checkpointing": (lambda: checkpointed(nn.ReLU(), conv(), nn.LeakyReLU(0.2), nn.GroupNorm(1, 4)), IMAGES),
    "checkpointing: in place": (
        lambda: checkpointed(conv(), nn.ReLU(inplace=True), conv(), nn.LeakyReLU(0.2, inplace=True)),
        IMAGES,
    ),
    "vmap": (
        lambda: FunctionalCritic(mapped, body=nn.Sequential(conv(2), nn.ReLU(), conv(), nn.LeakyReLU(0.2))),
        IMAGES,
    ),
    "torch.func.grad": (
        lambda: FunctionalCritic(gradient_of_a_transform, body=nn.Sequential(conv(2), nn.LeakyReLU(0.2), conv())),
        IMAGES,
    ),
    "batch: embeddings": (
        lambda: FunctionalCritic(
            nearest_embedding, first=conv(2), embedding=nn.Embedding(4, 4), affine=nn.Linear(4, 4)
        ),
        IMAGES,
    ),
    "batch: standard deviation": (lambda: FunctionalCritic(minibatch_deviation, first=conv(2), second=conv(5)), IMAGES),
    "batch: similarity": (lambda: FunctionalCritic(minibatch_similarity, first=conv(2)), IMAGES),
    "spectrum": (lambda: FunctionalCritic(fourier, first=conv(2), second=conv()), IMAGES),
    "maximum and sorting": (lambda: FunctionalCritic(maximum_of_two, first=conv(2)), IMAGES),
    "pooling and resampling": (lambda: FunctionalCritic(resampled, first=conv(2), second=conv()), IMAGES),
    "unfolding": (lambda: FunctionalCritic(unfolded, affine=nn.Linear(18, 4)), IMAGES),
    "concatenation": (lambda: FunctionalCritic(dense, first=conv(2), second=conv(16)), IMAGES),
    "dropout": (lambda: FunctionalCritic(seeded_dropout, first=conv(2), second=conv()), IMAGES),
    "quadratic form": (lambda: FunctionalCritic(quadratic, matrix=randn(6, 6)), VECTORS),
    "bilinear layer": (
        lambda: FunctionalCritic(lambda m, x: m.cell(x, F.leaky_relu(x)), cell=nn.Bilinear(6, 6, 3)),
        VECTORS,
    ),
    "smooth activations": (lambda: mlp(nn.GELU(), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Tanh(), nn.ELU()), VECTORS),
    "piecewise linear activations": (
        lambda: mlp(nn.PReLU(), nn.Hardtanh(), nn.RReLU(0.1, 0.1), nn.Hardswish(), nn.LeakyReLU(0.2), nn.ReLU6()),
        VECTORS,
    ),
}
"""Critics, and the shape of their examples, for which the fast rules are right."""

PLAIN: dict[str, tuple[Make, Sequence[int]]] = {
    "own gradient": (lambda: FunctionalCritic(own_gradient, first=conv(2), second=conv()), IMAGES),
    "own gradient, in part": (lambda: FunctionalCritic(own_gradient_of_a_part, first=conv(2)), IMAGES),
}
"""Critics, and the shape of their examples, for which plain double backward is needed."""

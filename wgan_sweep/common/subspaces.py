"""Random linear subspaces."""

import torch
from torch import Tensor


def random_basis(dim: int, support: int, generator: torch.Generator | None = None) -> Tensor:
    """Return an orthonormal basis ``[support, dim]`` of a random subspace of R^dim: uniform over all subspaces.

    Args:
        dim: Dimension of the space.
        support: Dimension of the subspace, at most `dim`.
        generator: Draws the subspace; None for torch's global one.
    """
    basis: Tensor = torch.linalg.qr(torch.randn(dim, support, generator=generator))[0]
    return basis.T.contiguous()

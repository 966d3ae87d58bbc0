"""A small vision transformer, with norms on tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normzoo.errors import UserError
from normzoo.models.blocks import EVERYWHERE, Norm, Placement, check_positive, sides
from normzoo.models.options import dropout_layers, initialize

NORM_ORDERS = ("pre", "post", "sandwich")


class ViT(nn.Module):
    """Patches as tokens, transformer blocks, the mean over tokens, and a linear layer.

    A block adds attention, then a multilayer perceptron, each f of:

        pre       x + f(norm(x))          Xiong et al. 2020 (arXiv:2002.04745)
        post      norm(x + f(x))          Vaswani et al. 2017 (arXiv:1706.03762, section 3.1)
        sandwich  x + norm(f(norm(x)))    Ding et al. 2021 (arXiv:2105.13290, section 2.4)

    A norm gets tokens as (N, dim, tokens), so that batch statistics average over samples and tokens. What transformers
    call LayerNorm is `layer_norm_channel`: it averages over the channels of each token.

    Stages: stage i is the i-th block; the last, `depth`, is the norm before the output.

    Init: Xavier uniform (Glorot & Bengio 2010), biases zero, unless `init` says otherwise; positions normal, std 0.02
    (Dosovitskiy et al. 2020, arXiv:2010.11929, whose class token is left out here).

    Shape: `(N, in_channels, H, W) -> (N, num_classes)`

    Args:
        norm: Builds the norm for a number of channels.
        placement: Which blocks are normalized; only `pre_act`, since `norm_order` gives the order.
        image_size: Side of the images, or height and width.
        patch: Side of a patch.
        dim: Channels of a token.
        depth: Number of blocks.
        heads: Number of attention heads; divides `dim`.
        mlp_ratio: Hidden size of the perceptrons, relative to `dim`.
        norm_order: `pre`, `post` or `sandwich`.
        qk_norm: Normalize queries and keys of each head too, by the same kind of norm (Dehghani et al. 2023,
            arXiv:2302.05442, section 2).
        init: `default` (Xavier uniform), `he_normal`, `xavier_uniform` or `xavier_normal`.
        init_scale: Factor on every initial weight.
        dropout: Dropout probability after each attention and perceptron.

    Raises:
        UserError: If an option is unknown or out of range, or patches or heads do not divide; in `forward`, if the
            images have another size.
    """

    def __init__(
        self,
        norm: Norm,
        placement: Placement = EVERYWHERE,
        *,
        in_channels: int,
        num_classes: int,
        image_size: int | tuple[int, int] | None,
        patch: int = 4,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 2,
        norm_order: str = "pre",
        qk_norm: bool = False,
        init: str = "default",
        init_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "num_classes": num_classes, "patch": patch, "dim": dim}
        check_positive("vit", **sizes, depth=depth, heads=heads, mlp_ratio=mlp_ratio)
        height, width = sides("vit", image_size)
        if placement.order != "pre_act":
            raise UserError(
                f"vit: placement.order={placement.order} is not possible in a transformer: leave it at pre_act, and "
                f"set model.norm_order to {', '.join(NORM_ORDERS)}"
            )
        if norm_order not in NORM_ORDERS:
            raise UserError(f"vit: norm_order={norm_order!r} is unknown; choose one of {', '.join(NORM_ORDERS)}")
        if height % patch or width % patch:
            raise UserError(f"vit: patches of {patch}×{patch} do not divide images of {height}×{width}")
        if dim % heads:
            raise UserError(f"vit: {heads} heads do not divide dim={dim}")
        self.image_shape = (in_channels, height, width)
        self.patches = nn.Conv2d(in_channels, dim, patch, stride=patch)
        self.position = nn.Parameter(torch.empty((height // patch) * (width // patch), dim))
        here = [norm if placement.at(stage, depth + 1) else None for stage in range(depth + 1)]
        self.blocks = nn.Sequential(
            *(Block(dim, heads, mlp_ratio, here[i], norm_order, qk_norm, dropout) for i in range(depth))
        )
        # Behind post-norm blocks the tokens are normalized already.
        self.norm = TokenNorm(dim, None if norm_order == "post" else here[depth])
        self.classifier = nn.Linear(dim, num_classes)
        initialize("vit", self, init, init_scale, own="xavier_uniform")
        nn.init.normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise UserError(
                f"vit was built for images of shape {self.image_shape} (C, H, W), got {tuple(x.shape[1:])}: "
                "set model.image_size to the size of the images"
            )
        x = self.patches(x).flatten(2).mT + self.position
        x = self.norm(self.blocks(x))
        return self.classifier(x.mean(dim=1))


class Block(nn.Module):
    """A transformer block; see `ViT` for the equations.

    Shape: `(N, tokens, dim) -> (N, tokens, dim)`
    """

    def __init__(
        self, dim: int, heads: int, mlp_ratio: int, norm: Norm | None, norm_order: str, qk_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        before = norm if norm_order in ("pre", "sandwich") else None
        after = norm if norm_order == "sandwich" else None
        last = norm if norm_order == "post" else None
        attention = Attention(dim, heads, norm if qk_norm else None)
        hidden = mlp_ratio * dim
        mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.attention, self.mlp = (
            nn.Sequential(TokenNorm(dim, before), f, *dropout_layers("vit", dropout), TokenNorm(dim, after))
            for f in (attention, mlp)
        )
        self.norm1, self.norm2 = TokenNorm(dim, last), TokenNorm(dim, last)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class Attention(nn.Module):
    """Self-attention with several heads (Vaswani et al. 2017, section 3.2.2), queries and keys normalized if asked.

    Shape: `(N, tokens, dim) -> (N, tokens, dim)`
    """

    def __init__(self, dim: int, heads: int, qk_norm: Norm | None) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm, self.k_norm = (TokenNorm(dim // heads, qk_norm) for _ in range(2))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the attention."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in self.qkv(x).chunk(3, dim=-1))
        q, k, v = (part.transpose(1, 2) for part in (self.q_norm(q), self.k_norm(k), v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TokenNorm(nn.Sequential):
    """A norm for channels first, on tokens; without a norm, the identity.

    Shape: `(N, *, dim) -> (N, *, dim)`
    """

    def __init__(self, dim: int, norm: Norm | None) -> None:
        super().__init__(*([] if norm is None else [norm(dim)]))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize."""
        return super().forward(x.movedim(-1, 1)).movedim(1, -1) if len(self) else x

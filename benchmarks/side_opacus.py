"""Worker: the same ViT in PyTorch, plain or under Opacus' engine; see `pacing`.

Runs in the peers' environment. Written in the way that suits Opacus' hooks: the position table is
an embedding looked up for each image, for a bare parameter has no per-example gradient there.
"""

import json
import os
import sys
from typing import Any

import opacus
import torch
from torch import nn
from torch.nn import functional

from benchmarks import vit
from benchmarks.pacing import Pacer


class Block(nn.Module):
    """A pre-normalised transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(vit.WIDTH)
        self.query = nn.Linear(vit.WIDTH, vit.WIDTH)
        self.key = nn.Linear(vit.WIDTH, vit.WIDTH, bias=False)
        self.value = nn.Linear(vit.WIDTH, vit.WIDTH)
        self.output_projection = nn.Linear(vit.WIDTH, vit.WIDTH)
        self.norm_2 = nn.LayerNorm(vit.WIDTH)
        self.mlp_hidden = nn.Linear(vit.WIDTH, vit.WIDTH * vit.MLP_RATIO)
        self.mlp_output = nn.Linear(vit.WIDTH * vit.MLP_RATIO, vit.WIDTH)

    def forward(self, tokens: Any) -> Any:
        """Tokens `(batch, tokens, width)` to tokens."""
        normal = self.norm_1(tokens)
        query, key, value = (
            layer(normal).unflatten(2, (vit.HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.output_projection(mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp_output(functional.gelu(self.mlp_hidden(self.norm_2(tokens))))


class ViT(nn.Module):
    """The ViT of `benchmarks.vit`."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(vit.PATCH_SIZE**2, vit.WIDTH)
        self.positions = nn.Embedding(vit.TOKENS, vit.WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(vit.BLOCKS)))
        self.logits = nn.Linear(vit.WIDTH, vit.CLASSES)
        self.register_buffer("places", torch.arange(vit.TOKENS))

    def forward(self, images: Any) -> Any:
        """Pixels 0..255 `(batch, 28, 28, 1)` to logits."""
        side, patch = vit.IMAGE_SIZE // vit.PATCH_SIZE, vit.PATCH_SIZE
        x = images.to(torch.float32) / 127.5 - 1.0
        x = x.reshape(-1, side, patch, side, patch).transpose(2, 3)
        x = self.projection(x.reshape(-1, vit.TOKENS, patch * patch))
        x = x + self.positions(self.places.expand(len(images), -1))
        return self.logits(self.blocks(x).mean(1))


def _max_grad_norm(model: nn.Module, clipping: str) -> Any:
    """One norm, or for "per_layer" one for each parameter, of the same sum of squares."""
    if clipping == "flat":
        return vit.L2_NORM_CLIP
    parameters = len(list(model.parameters()))
    return [vit.L2_NORM_CLIP / parameters**0.5] * parameters


def _training(clipping: str | None, data: Any) -> tuple[Any, Any, Any]:
    """Model, optimizer and loader; private, with Opacus' Poisson loader, for a `clipping`."""
    model: Any = ViT()
    optimizer: Any = torch.optim.Adam(model.parameters(), vit.LEARNING_RATE)
    loader: Any = torch.utils.data.DataLoader(data, vit.BATCH_SIZE, shuffle=True)
    if clipping is None:
        return model, optimizer, loader
    engine = opacus.PrivacyEngine(accountant="rdp")
    made: tuple[Any, Any, Any] = engine.make_private(
        module=model,
        optimizer=optimizer,
        data_loader=loader,
        noise_multiplier=vit.NOISE_MULTIPLIER,
        max_grad_norm=_max_grad_norm(model, clipping),
        clipping=clipping,
        grad_sample_mode="hooks",
    )
    return made


def main() -> None:
    """Trains the side that the first argument, a JSON object, describes."""
    pacer = Pacer.on_standard_streams()
    clipping = json.loads(sys.argv[1])["clipping"]
    torch.set_num_threads(os.cpu_count() or 1)
    images, labels = vit.made_up_data(vit.RECORDS, (vit.IMAGE_SIZE, vit.IMAGE_SIZE, 1))
    data = torch.utils.data.TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    model, optimizer, loader = _training(clipping, data)
    model.train()
    versions = {"torch": torch.__version__}
    if clipping is not None:
        versions["opacus"] = opacus.__version__
    parameters = sum(p.numel() for p in model.parameters())
    go_on = pacer.ready(versions=versions, parameters=parameters)
    while go_on:
        for x, y in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            go_on = pacer.step_done(len(y))
            if not go_on:
                break


if __name__ == "__main__":
    main()

"""The plainest torch loops, one for each variant, that `variant_speed.py` compares with.

Each entry of `LOOPS` takes the variant's untrained network and its hyperparameters, and gives the optimiser (or
several) and the function that takes one step on a batch `x` (B, *shape). `progress` in [0, 1) is the share of training done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Step = Callable[[Tensor, float], float]


def train(model: nn.Module, step: Step, x: Tensor, held: Tensor, epochs: int, batch: int) -> float:
    """The loop; gives the mean score of held-out rows after the last epoch."""
    count = len(x)
    validation = 0.0
    for epoch in range(epochs):
        model.train()
        order = torch.randperm(count)
        total = 0.0
        for start in range(0, count, batch):
            rows = x.index_select(0, order[start : start + batch])
            total += step(rows, (epoch + start / count) / epochs)
        model.eval()
        with torch.no_grad():
            validation = sum(model.score(part).sum().item() for part in held.split(batch)) / len(held)  # type: ignore[operator]
    return validation


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def squashed(logits: Tensor, output: str) -> Tensor:
    return torch.sigmoid(logits) if output == "sigmoid" else logits


def autoencoder(model: Any, hyper: Any) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=hyper.lr)
    output = hyper.output

    def step(x: Tensor, progress: float) -> float:  # noqa: ARG001
        rebuilt = squashed(model.decoder(model.encoder(x)), output)
        return descend(optimizer, functional.mse_loss(rebuilt, x))

    return step


def vae(model: Any, hyper: Any) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=hyper.lr)

    def step(x: Tensor, progress: float) -> float:  # noqa: ARG001
        mean, log_variance = model.encoder(x).chunk(2, dim=1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = model.decoder(z)
        if hyper.likelihood == "bernoulli":
            misfit = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        else:
            misfit = 0.5 * functional.mse_loss(squashed(logits, hyper.output), x, reduction="sum")
        divergence = -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())
        return descend(optimizer, (misfit + hyper.beta * divergence) / len(x))

    return step


def wgan_gp(model: Any, hyper: Any) -> Step:
    critic = nn.Sequential(model.features, model.critic)
    betas = (hyper.beta1, hyper.beta2)
    critics = torch.optim.Adam(critic.parameters(), lr=hyper.lr, betas=betas)
    generators = torch.optim.Adam(model.generator.parameters(), lr=hyper.lr, betas=betas)
    encoders = torch.optim.Adam(model.encoder.parameters(), lr=hyper.encoder_lr)

    def generate(z: Tensor) -> Tensor:
        return squashed(model.generator(z), hyper.output)

    def play(x: Tensor) -> float:
        for _ in range(hyper.critic_steps):
            fake = generate(torch.randn(len(x), hyper.latent)).detach()
            share = torch.rand(len(x), *[1] * (x.dim() - 1))
            between = (share * x + (1 - share) * fake).requires_grad_()
            slope = torch.autograd.grad(critic(between).sum(), between, create_graph=True)[0]
            penalty = ((slope.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
            descend(critics, critic(fake).mean() - critic(x).mean() + hyper.penalty * penalty)
        return descend(generators, -critic(generate(torch.randn(len(x), hyper.latent))).mean())

    def encode(x: Tensor) -> float:
        rebuilt = generate(model.encoder(x))
        loss = functional.mse_loss(rebuilt, x) + hyper.kappa * functional.mse_loss(model.features(rebuilt), model.features(x))
        return descend(encoders, loss)

    return lambda x, progress: encode(x) if progress >= hyper.game else play(x)


LOOPS: dict[str, Callable[[Any, Any], Step]] = {"autoencoder": autoencoder, "vae": vae, "wgan_gp": wgan_gp}

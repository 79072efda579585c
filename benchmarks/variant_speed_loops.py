"""The plainest torch loops, one for each variant, that `variant_speed.py` compares with.

Each entry of `LOOPS` takes the variant's untrained network and its published hyperparameters, and gives the function
that takes one step on a batch `x` (B, *shape). `progress` in [0, 1) is the share of training done.
"""

from __future__ import annotations

import math
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
        order = torch.randperm(count, device=x.device)
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
    if output == "tanh":
        return (torch.tanh(logits) + 1) / 2
    return torch.sigmoid(logits) if output == "sigmoid" else logits


def misfit(logits: Tensor, x: Tensor, hyper: Any) -> Tensor:
    if hyper.loss == "bce":
        return functional.binary_cross_entropy_with_logits(logits, x)
    return functional.mse_loss(squashed(logits, hyper.output), x)


def autoencoder(model: Any, hyper: Any) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=hyper.lr)
    return lambda x, progress: descend(optimizer, misfit(model.decoder(model.encode(x)), x, hyper))  # noqa: ARG005


def denoising(model: Any, hyper: Any) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=hyper.lr)

    def step(x: Tensor, progress: float) -> float:  # noqa: ARG001
        noisy = functional.dropout(x, hyper.amount)
        return descend(optimizer, misfit(model.decoder(model.encode(noisy)), x, hyper))

    return step


def sparse(model: Any, hyper: Any) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=hyper.lr)

    def step(x: Tensor, progress: float) -> float:  # noqa: ARG001
        z = model.encode(x)
        rho, mean = hyper.activity, z.mean(0)
        penalty = (rho * torch.log(rho / mean) + (1 - rho) * torch.log((1 - rho) / (1 - mean))).sum()
        return descend(optimizer, misfit(model.decoder(z), x, hyper) + hyper.kl * penalty)

    return step


def contractive(model: Any, hyper: Any) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=hyper.lr)
    layers = [part for part in model.encoder if not isinstance(part, nn.Flatten)]

    def penalised(x: Tensor) -> tuple[Tensor, Tensor]:
        if len(layers) == 1 and isinstance(layers[0], nn.Linear):  # the paper's one layer of sigmoids
            z = model.encode(x)
            return z, ((z * (1 - z)) ** 2 * (layers[0].weight ** 2).sum(1)).sum(1)
        x = x.clone().requires_grad_()
        z = model.encode(x)
        signs = torch.randint(0, 2, z.shape, device=z.device).float() * 2 - 1
        slope = torch.autograd.grad(z, x, signs, create_graph=True)[0]
        return z, (slope**2).flatten(1).sum(1)

    def step(x: Tensor, progress: float) -> float:  # noqa: ARG001
        z, penalty = penalised(x)
        return descend(optimizer, misfit(model.decoder(z), x, hyper) + hyper.contraction / x[0].numel() * penalty.mean())

    return step


def greedy(model: Any, hyper: Any) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=hyper.lr)
    pairs = [(nn.Sequential(*up), nn.Sequential(*down)) for up, down in model.pairs]
    until = 1 - hyper.fine_tuning

    def step(x: Tensor, progress: float) -> float:
        if progress >= until:
            return descend(optimizer, misfit(model.decoder(model.encode(x)), x, hyper))
        pair = int(progress / until * len(pairs))
        h = x
        with torch.no_grad():
            for encoder, _ in pairs[:pair]:
                h = encoder(h)
        encoder, decoder = pairs[pair]
        rebuilt = decoder(encoder(h))
        return descend(optimizer, functional.mse_loss(rebuilt.flatten(1), h.flatten(1)) if pair else misfit(rebuilt, x, hyper))

    return step


def masked(model: Any, hyper: Any) -> Step:
    """As in the authors' code: shuffle by sorted noise, encode what is visible, unshuffle with mask tokens, tell all, count the hidden."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=hyper.lr, betas=(0.9, 0.95), weight_decay=hyper.weight_decay)

    def step(x: Tensor, progress: float) -> float:
        ramp = progress / hyper.warm_up if progress < hyper.warm_up else 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = hyper.lr * ramp
        if progress == 0:  # pixels (steps, entries) of mean 0 and deviation 1, as the authors' images have
            model.mean.fill_(x.mean())
            model.deviation.fill_(x.std())
        patches = model.cut.cut((x - model.mean) / model.deviation)
        rows, tokens, _ = patches.shape
        shuffle = torch.rand(rows, tokens, device=x.device).argsort(1)
        restore = shuffle.argsort(1)
        embedded = model.embed(patches) + model.positions
        visible = torch.gather(embedded, 1, shuffle[:, : model.seen, None].expand(-1, -1, embedded.shape[2]))
        told = model.widen(model.project(model.encoder(visible)))
        whole = torch.cat([told, model.mask_token.expand(rows, tokens - model.seen, -1)], 1)
        whole = torch.gather(whole, 1, restore[:, :, None].expand(-1, -1, whole.shape[2])) + model.decoder_positions
        error = ((model.predict(model.decoder(whole)) - patches) ** 2).mean(2)
        hidden = (restore >= model.seen).float()
        return descend(optimizer, (error * hidden).sum() / hidden.sum() * model.deviation.square().squeeze())

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


class Game:
    """Optimisers and the encoder's phase, which all games share."""

    def __init__(self, model: Any, hyper: Any) -> None:
        self.model, self.hyper = model, hyper
        self.critic = nn.Sequential(model.features, model.critic)
        betas = (hyper.beta1, hyper.beta2)
        self.critics = torch.optim.Adam(self.critic.parameters(), lr=hyper.lr, betas=betas)
        self.generators = torch.optim.Adam(model.generator.parameters(), lr=hyper.lr, betas=betas)
        self.encoders = torch.optim.Adam(model.encoder.parameters(), lr=hyper.encoder_lr)

    def generate(self, z: Tensor) -> Tensor:
        return squashed(self.model.generator(z), self.hyper.output)

    def drawn(self, count: int) -> Tensor:
        return self.generate(torch.randn(count, self.hyper.latent, device=next(self.model.parameters()).device))

    def encode(self, x: Tensor) -> float:
        self.critic.eval()
        self.model.generator.eval()
        rebuilt = self.generate(self.model.encoder(x))
        apart = functional.mse_loss(self.model.features(rebuilt), self.model.features(x))
        return descend(self.encoders, functional.mse_loss(rebuilt, x) + self.hyper.kappa * apart)

    def step(self, play: Callable[[Tensor], float]) -> Step:
        return lambda x, progress: self.encode(x) if progress >= self.hyper.game else play(x)


def wasserstein(model: Any, hyper: Any, penalty: Callable[[Tensor], Tensor]) -> Step:
    """`penalty` of the norms (B,) of the critic's gradients."""
    game = Game(model, hyper)

    def play(x: Tensor) -> float:
        for _ in range(hyper.critic_steps):
            fake = game.drawn(len(x)).detach()
            share = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device)
            between = (share * x + (1 - share) * fake).requires_grad_()
            slope = torch.autograd.grad(game.critic(between).sum(), between, create_graph=True)[0]
            cost = penalty(slope.flatten(1).norm(2, dim=1)).mean()
            descend(game.critics, game.critic(fake).mean() - game.critic(x).mean() + cost)
        return descend(game.generators, -game.critic(game.drawn(len(x))).mean())

    return game.step(play)


def wgan_gp(model: Any, hyper: Any) -> Step:
    return wasserstein(model, hyper, lambda norm: hyper.penalty * (norm - 1) ** 2)


def wgan_div(model: Any, hyper: Any) -> Step:
    return wasserstein(model, hyper, lambda norm: hyper.k * norm**hyper.p)


def gan(model: Any, hyper: Any) -> Step:
    game = Game(model, hyper)

    def told_apart(x: Tensor, truth: float) -> Tensor:
        logits = game.critic(x)
        return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))

    def play(x: Tensor) -> float:
        descend(game.critics, told_apart(x, 1.0) + told_apart(game.drawn(len(x)).detach(), 0.0))
        return descend(game.generators, told_apart(game.drawn(len(x)), 1.0))

    return game.step(play)


def dcgan(model: Any, hyper: Any) -> Step:
    """The loop of `gan` with torch's own batch normalisation in the networks, at the same gains."""
    kind = nn.BatchNorm2d if any(isinstance(layer, nn.Conv2d) for layer in model.modules()) else nn.BatchNorm1d
    for net in (model.features, model.generator):
        for name, layer in list(net.named_children()):
            if type(layer).__name__ == "BatchNorm":
                plain = kind(len(layer.weight)).to(layer.weight.device)
                plain.weight.data = layer.weight.data
                setattr(net, name, plain)
    return gan(model, hyper)


class Growing(Game):
    """What the loops of `progressive` and `stylegan` share: stages, real rows of a stage, the running average."""

    steps = 0

    def generate(self, z: Tensor) -> Tensor:
        return self.model.decode(z)

    def grown(self, x: Tensor, progress: float) -> Tensor:
        """Sets the stage; the rows as they look in it."""
        stages = 2 * len(self.model.ladder.sizes) - 1
        place = min(progress / self.hyper.game * stages, stages - 1e-6)
        stage = self.model.stage
        stage.level, stage.alpha = (int(place) + 1) // 2, place % 1 if int(place) % 2 else 1.0
        before = x
        for size in self.model.ladder.sizes[::-1][1:]:
            if x.shape[2:] == self.model.ladder.sizes[stage.level]:
                break
            x = functional.adaptive_avg_pool2d(x, size)
        if stage.alpha < 1:
            before = functional.adaptive_avg_pool2d(x, self.model.ladder.sizes[stage.level - 1])
            x = stage.alpha * x + (1 - stage.alpha) * functional.interpolate(before, size=x.shape[2:])
        return x

    def generated(self, loss: Tensor) -> float:
        told = descend(self.generators, loss)
        self.steps += 1
        decay = min(self.hyper.average, self.steps / (9 + self.steps))
        average = dict(self.model.averaged.named_buffers())
        with torch.no_grad():
            for name, weight in self.model.generator.named_parameters():
                average[name].mul_(decay).add_(weight, alpha=1 - decay)
        return told


def progressive(model: Any, hyper: Any) -> Step:
    """The variant's networks by hand: WGAN-GP with drift, the stages, the running average."""
    game = Growing(model, hyper)

    def drawn(x: Tensor) -> Tensor:
        return model.generator(torch.randn(len(x), hyper.latent, device=x.device))

    def step(x: Tensor, progress: float) -> float:
        if progress >= hyper.game:
            game.grown(x, progress)
            return game.encode(x)
        x = game.grown(x, progress)
        fake = drawn(x).detach()
        share = torch.rand(len(x), *[1] * (x.dim() - 1), device=x.device)
        between = (share * x + (1 - share) * fake).requires_grad_()
        slope = torch.autograd.grad(game.critic(between).sum(), between, create_graph=True)[0]
        cost = hyper.penalty * (slope.flatten(1).norm(2, dim=1) - 1) ** 2
        real = game.critic(x)
        descend(game.critics, game.critic(fake).mean() - real.mean() + cost.mean() + hyper.drift * (real**2).mean())
        return game.generated(-game.critic(drawn(x)).mean())

    return step


def stylegan(model: Any, hyper: Any) -> Step:
    """The variant's networks by hand: style mixing, noise, the mean style, the logistic loss with R1."""
    game = Growing(model, hyper)

    def drawn(x: Tensor) -> Tensor:
        layers, count, place = model.generator.layers(), len(x), x.device
        first, second = (model.generator.mapping(torch.randn(count, hyper.latent, device=place)) for _ in range(2))
        model.mean.copy_(0.995 * model.mean + 0.005 * first.detach().mean(0))
        alone = torch.rand(count, device=place) >= hyper.mixing
        at = torch.randint(1, layers, (count,), device=place).masked_fill(alone, layers)
        early = (torch.arange(layers, device=place) < at[:, None])[:, :, None]
        styles = torch.where(early, first[:, None], second[:, None])
        return model.generator(styles, torch.randn(count, model.generator.values(model.stage.level), device=place))

    def step(x: Tensor, progress: float) -> float:
        if progress >= hyper.game:
            game.grown(x, progress)
            return game.encode(x)
        x = game.grown(x, progress).requires_grad_()
        with torch.no_grad():
            fake = drawn(x)
        real = game.critic(x)
        slope = torch.autograd.grad(real.sum(), x, create_graph=True)[0]
        told = functional.softplus(-real).mean() + functional.softplus(game.critic(fake)).mean()
        descend(game.critics, told + hyper.r1 / 2 * (slope**2).flatten(1).sum(1).mean())
        return game.generated(functional.softplus(-game.critic(drawn(x))).mean())

    return step


LOOPS: dict[str, Callable[[Any, Any], Step]] = {
    "acgan": dcgan, "autoencoder": autoencoder, "contractive": contractive, "dcgan": dcgan, "denoising": denoising, "gan": gan,
    "greedy": greedy, "masked": masked, "progressive": progressive, "sparse": sparse, "stylegan": stylegan,
    "tied": autoencoder, "vae": vae, "wgan_div": wgan_div, "wgan_gp": wgan_gp,
}  # fmt: skip
"""`tied` is an autoencoder whose network shares weights, and its loop is the same; so is that of `dcgan` for `acgan`, whose rows
here have no classes."""

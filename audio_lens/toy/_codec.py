"""The toy's ears and voice: a small EnCodec, trained without and then with its codebooks.

One large stride of 320 samples learns an overlapping analysis and synthesis window directly.
Because the clips are tuned to the frame grid, a waveform loss means something, which teaches the
codec the highs in minutes; spectral losses alone leave every clip with the same treble.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import EncodecConfig, EncodecModel

from audio_lens.lens.config import HFModule

SAMPLE_RATE = 16_000
HOP = 320
N_CODEBOOKS = 4
CODEBOOK_SIZE = 256


@dataclass(frozen=True)
class CodecSettings:
    """How long and how hard the codec is trained."""

    continuous_steps: int = 1400
    quantized_steps: int = 1200
    batch: int = 16
    crop_frames: int = 25
    learning_rate: float = 2e-3
    tuning_rate: float = 1e-3
    kmeans_rounds: int = 12
    codebook_decay: float = 0.98
    seed: int = 0


def build_codec() -> EncodecModel:
    """An untrained EnCodec: 16 kHz mono, 50 frames a second, 4 codebooks of 256 entries."""
    config = EncodecConfig(
        target_bandwidths=[1.6],
        sampling_rate=SAMPLE_RATE,
        audio_channels=1,
        normalize=False,
        hidden_size=64,
        num_filters=24,
        upsampling_ratios=[HOP],
        kernel_size=7,
        last_kernel_size=7,
        residual_kernel_size=3,
        use_causal_conv=False,
        num_lstm_layers=1,
        codebook_size=CODEBOOK_SIZE,
        use_conv_shortcut=False,
    )
    return EncodecModel(config)


def _crops(
    clips: Float[Tensor, "clip sample"], settings: CodecSettings, generator: torch.Generator
) -> Float[Tensor, "batch 1 crop"]:
    """Random crops that start on a frame boundary."""
    length = settings.crop_frames * HOP
    rows = torch.randint(len(clips), (settings.batch,), generator=generator)
    last = (clips.shape[1] - length) // HOP + 1
    starts = torch.randint(last, (settings.batch,), generator=generator) * HOP
    pieces = [clips[r, s : s + length] for r, s in zip(rows, starts, strict=True)]
    return torch.stack(pieces)[:, None]


def _relative_error(out: Tensor, target: Tensor) -> Tensor:
    error = (out - target).pow(2).mean(-1)
    return (error / (target.pow(2).mean(-1) + 1e-5)).mean()


def _emphasise(wave: Tensor) -> Tensor:
    return wave[..., 1:] - 0.95 * wave[..., :-1]


def _spectral_error(out: Tensor, target: Tensor, window: int) -> Tensor:
    """Mean distance of magnitudes compressed by the power 0.4, so that quiet highs count."""
    shape = torch.hann_window(window)

    def compressed(wave: Tensor) -> Tensor:
        spectrum = torch.stft(
            wave.squeeze(1), window, window // 4, window=shape, return_complex=True
        )
        return (torch.view_as_real(spectrum).pow(2).sum(-1) + 1e-6).pow(0.2)

    return (compressed(out) - compressed(target)).abs().mean()


def codec_loss(out: Tensor, target: Tensor) -> Tensor:
    """Relative squared error of the waveform, plain and pre-emphasised, beside two spectra."""
    loss = _relative_error(out, target)
    loss = loss + 2 * _relative_error(_emphasise(out), _emphasise(target))
    return loss + sum(_spectral_error(out, target, window) for window in (256, 1024))


def _run(
    model: HFModule,
    steps: int,
    rate: float,
    forward: Callable[[Tensor], tuple[Tensor, Tensor]],
    crops: Callable[[], Tensor],
    label: str,
) -> list[float]:
    """AdamW with a cosine; `forward` gives the audio and an extra loss. Returns mean losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=steps, pct_start=0.05
    )
    losses: list[float] = []
    bar = tqdm(range(steps), desc=label, mininterval=5)
    for _ in bar:
        target = crops()
        out, extra = forward(target)
        loss = codec_loss(out, target) + extra
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
    return [float(np.mean(losses[i : i + 50])) for i in range(0, steps, 50)]


def _codebooks(model: HFModule) -> list[HFModule]:
    return [layer.codebook for layer in model.quantizer.layers]


@torch.no_grad()
def _kmeans(
    points: Float[Tensor, "point dim"], rounds: int, generator: torch.Generator
) -> Float[Tensor, "entry dim"]:
    """Plain k-means; an entry that loses all its points moves to a random one."""
    centres = points[torch.randperm(len(points), generator=generator)[:CODEBOOK_SIZE]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(points, centres).argmin(1)
        counts = torch.bincount(nearest, minlength=CODEBOOK_SIZE)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        spare = points[torch.randint(len(points), (CODEBOOK_SIZE,), generator=generator)]
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), spare)
    return centres


@torch.no_grad()
def fit_codebooks(
    model: HFModule, clips: Float[Tensor, "clip sample"], settings: CodecSettings
) -> None:
    """Residual k-means over the encoder's frames, written into the model's own buffers."""
    generator = torch.Generator().manual_seed(settings.seed + 1)
    states = torch.cat([model.encoder(chunk[:, None]) for chunk in clips.split(1)])
    points = states.transpose(1, 2).reshape(-1, states.shape[1])
    points = points[torch.randperm(len(points), generator=generator)[:40_000]]
    for book in _codebooks(model):
        centres = _kmeans(points, settings.kmeans_rounds, generator)
        nearest = torch.cdist(points, centres).argmin(1)
        book.embed.copy_(centres)
        book.embed_avg.copy_(centres)
        book.cluster_size.copy_(torch.ones(CODEBOOK_SIZE))
        points = points - centres[nearest]


@torch.no_grad()
def _update(book: HFModule, points: Tensor, codes: Tensor, decay: float) -> None:
    """Move the entries to the running mean of their points; revive those that fell silent."""
    counts = torch.bincount(codes, minlength=CODEBOOK_SIZE).to(points)
    sums = torch.zeros_like(book.embed).index_add_(0, codes, points)
    book.cluster_size.mul_(decay).add_(counts, alpha=1 - decay)
    book.embed_avg.mul_(decay).add_(sums, alpha=1 - decay)
    book.embed.copy_(book.embed_avg / book.cluster_size.clamp(min=1e-3)[:, None])
    dead = book.cluster_size < 0.02
    if dead.any():
        spare = points[torch.randint(len(points), (int(dead.sum()),))]
        book.embed[dead], book.embed_avg[dead], book.cluster_size[dead] = spare, spare, 1.0


def _quantize(model: HFModule, states: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """Straight-through residual quantization; returns the states and the commitment loss."""
    points = states.transpose(1, 2).reshape(-1, states.shape[1])
    residual, total = points.detach(), torch.zeros_like(points)
    for book in _codebooks(model):
        codes = book.quantize(residual)
        chosen = book.embed[codes]
        _update(book, residual, codes, decay)
        total, residual = total + chosen, residual - chosen
    commitment = 0.25 * (points - total).pow(2).mean() / points.detach().var().clamp(min=1e-6)
    shaped = total.view(states.shape[0], -1, states.shape[1]).transpose(1, 2)
    return states + (shaped - states).detach(), commitment


def train_codec(
    model: HFModule, clips: Float[Tensor, "clip sample"], settings: CodecSettings
) -> dict:
    """Train in place: continuous autoencoder, codebooks, straight-through tuning. Returns a log."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    model.train()

    def continuous(target: Tensor) -> tuple[Tensor, Tensor]:
        return model.decoder(model.encoder(target)), torch.zeros(())

    def quantized(target: Tensor) -> tuple[Tensor, Tensor]:
        states, commitment = _quantize(model, model.encoder(target), settings.codebook_decay)
        return model.decoder(states), commitment

    def crops() -> Tensor:
        return _crops(clips, settings, generator)

    first = _run(
        model, settings.continuous_steps, settings.learning_rate, continuous, crops, "codec"
    )
    fit_codebooks(model, clips[:256], settings)
    second = _run(
        model, settings.quantized_steps, settings.tuning_rate, quantized, crops, "codec, quantized"
    )
    model.eval()
    return {"settings": asdict(settings), "continuous_loss": first, "quantized_loss": second}


@torch.no_grad()
def encode(
    model: HFModule, clips: Float[Tensor, "clip sample"]
) -> Int[Tensor, "clip codebook frame"]:
    """Codes of whole clips, one at a time: that is the fastest on a CPU."""
    chunks = [model.encode(chunk[:, None]).audio_codes[0] for chunk in clips.split(1)]
    return torch.cat(chunks)


@torch.no_grad()
def decode(
    model: HFModule, codes: Int[Tensor, "clip codebook frame"]
) -> Float[Tensor, "clip sample"]:
    """Audio of codes, one clip at a time."""
    chunks = [model.decode(chunk[None], [None]).audio_values for chunk in codes.split(1)]
    return torch.cat(chunks).squeeze(1)

"""The recipe of SAMA-Nano: every edit family of the synthetic engine, trained from nothing on a CPU.

Run `python -m sama_video.training.nano --help`. Steps: fit the linear codec, train the tokenizer, then train the
transformer and its text encoder together through stages of growing size (`STAGES`), then refine the decoder.
Interrupted runs go on from their newest checkpoint.
"""

import argparse
import json
import logging
import random
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from ..models.autoencoder_sama_nano import PATCH_VALUES, AutoencoderSamaNano
from ..models.latents import encode_video
from ..models.presets import PRESETS
from ..models.transformer_sama import SamaTransformer3DModel
from ..shapes import LatentShape, VideoShape
from ..synth.edits import FAMILIES
from ..synth.engine import Engine
from ..synth.footage import Footage
from .losses import flow_matching_step, sample_sigmas

logger = logging.getLogger(__name__)

TEXT_TOKENS = 32
TEXT_DROPOUT = 0.05
SIGMA_SHIFT = 3.0
EMA_DECAY = 0.998
MAX_BATCH = 512  # samples that a step may take, which keeps the steps' samples apart


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of growing size.

    Args:
        shapes: (frames, height, width) in pixels; a step draws one of them for its whole batch.
        tokens_per_step: source and target tokens of a batch, which sets its size.
        num_steps: optimizer steps.
        learning_rate: at its start; `final_learning_rate` at its end, in between a straight line.
    """

    name: str
    shapes: tuple[tuple[int, int, int], ...]
    tokens_per_step: int
    num_steps: int
    learning_rate: float
    final_learning_rate: float


STAGES = (
    Stage(
        name="images-64",
        shapes=((1, 64, 64), (1, 48, 80), (1, 80, 48)),
        tokens_per_step=4096,
        num_steps=300,
        learning_rate=2e-3,
        final_learning_rate=2e-3,
    ),
    Stage(
        name="clips-64",
        shapes=((9, 64, 64), (9, 48, 80), (9, 80, 48), (5, 96, 96)),
        tokens_per_step=4096,
        num_steps=250,
        learning_rate=2e-3,
        final_learning_rate=2e-3,
    ),
    Stage(
        name="clips-128",
        shapes=(
            *((9, 128, 128), (9, 112, 144), (9, 144, 112), (9, 96, 176), (9, 176, 96), (9, 80, 192)),
            *((1, 128, 128), (1, 112, 144)),
        ),
        tokens_per_step=4608,
        num_steps=850,
        learning_rate=2e-3,
        final_learning_rate=1.5e-3,
    ),
    Stage(
        name="clips-128-long",
        shapes=(
            *((33, 128, 128), (33, 112, 144), (17, 144, 112), (33, 96, 176), (17, 176, 96), (33, 80, 192)),
            *((9, 128, 128), (9, 112, 144), (9, 192, 80)),
        ),
        tokens_per_step=4608,
        num_steps=600,
        learning_rate=1.5e-3,
        final_learning_rate=1e-5,
    ),
)


def new_transformer() -> SamaTransformer3DModel:
    """An untrained transformer of the nano's size."""
    transformer = SamaTransformer3DModel(**PRESETS["nano"].transformer)
    nn.init.normal_(transformer.type_embedding.weight, std=0.5)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return transformer


@torch.no_grad()
def start_some_heads_on_the_same_place(transformer: SamaTransformer3DModel, num_heads: int = 2) -> None:
    """Let the first heads of every block begin by attending to the tokens of their own place.

    Rotated by the same angle, equal queries and keys match best at equal positions. A constant bias on the fastest
    frequencies of each axis, and little else, gives such heads: the target token then sees its source token from
    the first step. `docs/experiments.md` has the measurement.
    """
    head_dim = transformer.config.attention_head_dim
    axis = 2 * (head_dim // 6)
    starts = (0, head_dim - 2 * axis, head_dim - axis)
    for block in cast(list[WanTransformerBlock], [*transformer.blocks]):
        for projection, norm in ((block.attn1.to_q, block.attn1.norm_q), (block.attn1.to_k, block.attn1.norm_k)):
            for head in range(num_heads):
                rows = slice(head * head_dim, (head + 1) * head_dim)
                projection.weight[rows] *= 0.1
                for start in starts:
                    fastest = slice(head * head_dim + start, head * head_dim + start + 4)
                    projection.bias[fastest] = 1.0
                    norm.weight[fastest] = 4.0


def new_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    """An untrained UMT5 encoder of the nano's size."""
    config = UMT5Config(
        vocab_size=vocab_size,
        d_model=PRESETS["nano"].transformer["text_dim"],
        d_kv=48,
        d_ff=512,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
    )
    return UMT5EncoderModel(config)


def train_tokenizer(num_samples: int = 50_000, vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    """A lower-casing BPE tokenizer of the engine's instructions and captions that falls back to bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    plans = (Engine().plan(index) for index in range(num_samples // 2))
    corpus = (text for plan in plans for text in (plan.instruction, plan.target_caption))
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", model_max_length=TEXT_TOKENS
    )


@torch.no_grad()
def fit_linear_codec(vae: AutoencoderSamaNano, engine: Engine, num_clips: int = 1500) -> None:
    """Set the encoder to the principal components of edited and unedited patches, and the latents' statistics.

    Latents are divided by the square root of a component's spread, not by the spread: full whitening would ask the
    transformer for grain of 1/100 of the brightness as loudly as for the brightness itself.
    """
    total = torch.zeros(PATCH_VALUES, dtype=torch.float64)
    products = torch.zeros(PATCH_VALUES, PATCH_VALUES, dtype=torch.float64)
    count = 0
    for index in range(num_clips):
        sample = engine.sample(index, 9, 128, 128)
        clip = as_tensor(sample.target if index % 2 else sample.source)
        patches = vae.patchify((clip * 2 - 1).transpose(0, 1)[None]).reshape(-1, PATCH_VALUES).double()
        total += patches.sum(dim=0)
        products += patches.T @ patches
        count += len(patches)
    mean = total / count
    variances, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    order = variances.argsort(descending=True)[: vae.config.z_dim]
    vae.components.copy_(vectors[:, order].T)
    vae.patch_mean.copy_(mean)
    spread = variances[order].sqrt()
    std = spread.sqrt()
    std *= (spread / std).square().mean().sqrt()
    vae.register_to_config(latents_mean=[0.0] * len(order), latents_std=[float(value) for value in std])


def encode_clips(vae: AutoencoderSamaNano, clips: torch.Tensor) -> torch.Tensor:
    """`[B, F, 3, H, W]` in 0..1 -> normalised latents `[B, Z, f, h, w]`."""
    return encode_video(vae, (clips * 2 - 1).transpose(1, 2))


@dataclass(frozen=True)
class Batch:
    """source, target: `[B, F, 3, H, W]` in 0..1; prompts: B of them."""

    source: torch.Tensor
    target: torch.Tensor
    prompts: list[str]


def as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 `[F, H, W, 3]` -> `[F, 3, H, W]` in 0..1."""
    return torch.from_numpy(pixels).movedim(-1, 1).float() / 255


def draw_batch(engine: Engine, shape: tuple[int, int, int], indices: range, text_dropout: float = 0.0) -> Batch:
    """The engine's samples `indices`; an instruction is left out with probability `text_dropout`."""
    samples = [engine.sample(index, *shape) for index in indices]
    rng = random.Random(indices.start)
    return Batch(
        torch.stack([as_tensor(sample.source) for sample in samples]),
        torch.stack([as_tensor(sample.target) for sample in samples]),
        ["" if rng.random() < text_dropout else sample.instruction for sample in samples],
    )


def encode_prompts(
    tokenizer: PreTrainedTokenizerFast, text_encoder: UMT5EncoderModel, prompts: list[str]
) -> torch.Tensor:
    """`[B, TEXT_TOKENS, D]`, rows beyond a prompt's end set to zero."""
    tokens = tokenizer(prompts, padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt")
    hidden_states = text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return hidden_states * tokens.attention_mask.unsqueeze(-1)


class Optimizer:
    """Muon on the blocks' matrices, AdamW on everything else; one learning rate drives both."""

    ADAM_SHARE = 0.4

    def __init__(self, transformer: SamaTransformer3DModel, text_encoder: UMT5EncoderModel):
        matrices = [p for p in transformer.blocks.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for m in (transformer, text_encoder) for p in m.parameters() if id(p) not in chosen]
        self.parts = (
            torch.optim.Muon(matrices, lr=0.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=0.0, weight_decay=0.0, betas=(0.9, 0.98)),
        )
        self.parameters = [*matrices, *rest]

    def step(self, learning_rate: float) -> float:
        """Clip, step, clear. Returns the gradient's norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for part, share in zip(self.parts, (1.0, self.ADAM_SHARE), strict=True):
            for group in part.param_groups:
                group["lr"] = learning_rate * share
            part.step()
            part.zero_grad(set_to_none=True)
        return float(norm)


class NanoTrainer:
    """Trains transformer and text encoder; everything that a resumed run needs lies in one folder."""

    def __init__(self, out: Path, vae: AutoencoderSamaNano, tokenizer: PreTrainedTokenizerFast, engine: Engine):
        self.out, self.vae, self.tokenizer, self.engine = out, vae, tokenizer, engine
        torch.manual_seed(0)
        self.transformer = new_transformer()
        self.text_encoder = new_text_encoder(len(tokenizer))
        start_some_heads_on_the_same_place(self.transformer)
        self.modules = nn.ModuleDict({"transformer": self.transformer, "text_encoder": self.text_encoder})
        self.optimizer = Optimizer(self.transformer, self.text_encoder)
        self.weights = dict(self.modules.named_parameters())
        self.ema = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.step = 0

    @torch.no_grad()
    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        if weights.keys() != self.weights.keys():
            raise ValueError(f"the checkpoint is of another model: {sorted(weights.keys() ^ self.weights.keys())}")
        for name, weight in self.weights.items():
            weight.copy_(weights[name])

    def train_step(self, stage: Stage, learning_rate: float) -> dict[str, float]:
        # Randomness is derived anew from the step, so a resumed run sees the batches it would have seen.
        rng = random.Random(self.step)
        generator = torch.Generator().manual_seed(self.step)
        frames, height, width = shape = rng.choice(stage.shapes)
        grid = LatentShape.from_video(VideoShape(num_frames=frames, height=height, width=width))
        tokens = 2 * grid.num_tokens()
        size = max(1, stage.tokens_per_step // tokens)
        first = self.step * MAX_BATCH
        batch = draw_batch(self.engine, shape, range(first, first + min(size, MAX_BATCH)), TEXT_DROPOUT)
        with torch.no_grad():
            source, target = encode_clips(self.vae, batch.source), encode_clips(self.vae, batch.target)
        sigma = sample_sigmas(len(target), SIGMA_SHIFT, generator)
        noise = torch.randn(target.shape, generator=generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            text = encode_prompts(self.tokenizer, self.text_encoder, batch.prompts)
            output = flow_matching_step(self.transformer, target, source, text, sigma, noise)
        loss = output.loss.mean()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {self.step}; lower the learning rate")
        loss.backward()
        norm = self.optimizer.step(learning_rate)
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_([*self.ema.values()], [*self.weights.values()], 1 - decay)
        self.step += 1
        return {"loss": float(loss.detach()), "gradient_norm": norm, "batch": len(target), "frames": frames}

    @torch.no_grad()
    def validate(self, engine: Engine, shape: tuple[int, int, int], per_family: int = 6) -> dict[str, float]:
        """PSNR in dB of the one-step prediction of x_0 from almost pure noise against the exact latents, by family."""
        live = {name: weight.clone() for name, weight in self.weights.items()}
        self.load_weights(self.ema)
        scores = {}
        std = torch.tensor(self.vae.config.latents_std).view(1, -1, 1, 1, 1)
        for seed, family in enumerate(engine.families):
            batch = draw_batch(replace(engine, families=(family,)), shape, range(per_family))
            source, target = encode_clips(self.vae, batch.source), encode_clips(self.vae, batch.target)
            noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(seed))
            sigma = torch.full((per_family,), 0.96)
            x_sigma = 0.04 * target + 0.96 * noise
            with torch.autocast("cpu", dtype=torch.bfloat16):
                text = encode_prompts(self.tokenizer, self.text_encoder, batch.prompts)
                velocity = self.transformer(x_sigma, 1000 * sigma, text, source_hidden_states=source).sample
            x_0 = x_sigma - 0.96 * velocity.float()
            # The linear codec is orthonormal: squared latent error is squared pixel error (pixels span 2).
            error = ((x_0 - target) * std).square().sum(dim=1).mean(dim=(1, 2, 3)) / PATCH_VALUES / 4
            scores[family] = float((-10 * torch.log10(error)).mean())
        self.load_weights(live)
        return scores

    def save(self) -> None:
        folder = self.out / "checkpoint"
        aside = self.out / "checkpoint.new"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file({**self.weights}, aside / "model.safetensors")
        save_file(self.ema, aside / "ema.safetensors")
        torch.save([part.state_dict() for part in self.optimizer.parts], aside / "optimizer.pt")
        (aside / "step.json").write_text(json.dumps({"step": self.step}))
        old = self.out / "checkpoint.old"
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)

    def resume(self) -> None:
        folder = next((self.out / n for n in ("checkpoint", "checkpoint.old") if (self.out / n).exists()), None)
        if folder is None:
            return
        self.load_weights(load_file(folder / "model.safetensors"))
        ema = load_file(folder / "ema.safetensors")
        self.ema = {name: ema[name] for name in self.weights}
        states = torch.load(folder / "optimizer.pt", weights_only=True)
        for part, state in zip(self.optimizer.parts, states, strict=True):
            part.load_state_dict(state)
        self.step = json.loads((folder / "step.json").read_text())["step"]
        logger.info("resumed at step %d", self.step)

    def train(self, stages: tuple[Stage, ...], validation: Engine) -> None:
        first = 0
        for stage in stages:
            last = first + stage.num_steps
            started, saved = time.monotonic(), time.monotonic()
            begin = max(self.step, first)
            while self.step < last:
                progress = (self.step - first) / stage.num_steps
                rate = stage.learning_rate + progress * (stage.final_learning_rate - stage.learning_rate)
                rate *= min(1.0, (self.step + 1) / 50)
                metrics = self.train_step(stage, rate)
                if self.step % 20 == 0:
                    seconds = (time.monotonic() - started) / (self.step - begin)
                    self.log({"stage": stage.name, "step": self.step, "rate": rate, "seconds": seconds, **metrics})
                if self.step % 200 == 0 or self.step == last:
                    scores = self.validate(validation, stage.shapes[0])
                    self.log(
                        {"stage": stage.name, "step": self.step, "psnr": scores, "mean": np.mean([*scores.values()])}
                    )
                if time.monotonic() - saved > 180 or self.step == last:
                    self.save()
                    saved = time.monotonic()
            first = last

    def log(self, record: dict) -> None:
        with open(self.out / "metrics.jsonl", "a") as stream:
            stream.write(json.dumps(record) + "\n")
        logger.info(
            " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in record.items() if k != "psnr")
        )


def train_decoder(
    vae: AutoencoderSamaNano, engine: Engine, validation: Engine, num_steps: int = 1300, batch_size: int = 12
) -> dict[str, float]:
    """Train what the decoder adds to the transpose of the linear encoder.

    Latents carry a little noise, more or less by sample, since those of a sampler do too.

    Returns:
        PSNR in dB on validation clips, of the linear decoder and of the trained one.
    """
    before = codec_psnr(vae, validation)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=num_steps, pct_start=0.05)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    for step in range(num_steps):
        rng = random.Random(step)
        shape = rng.choice(((5, 128, 128), (5, 112, 144), (5, 96, 176), (1, 128, 128)))
        size = batch_size if shape[0] > 1 else 2 * batch_size
        batch = draw_batch(engine, shape, range(step * MAX_BATCH, step * MAX_BATCH + size))
        clips = torch.cat([batch.source[::2], batch.target[1::2]])
        with torch.no_grad():
            latents = encode_clips(vae, clips)
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step))
            latents = latents + noise * torch.linspace(0, 0.03, len(latents)).view(-1, 1, 1, 1, 1)
        video = vae.decode_unclamped(latents * std)
        loss = (video - (clips * 2 - 1).transpose(1, 2)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 0.02)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            logger.info("decoder step=%d loss=%.6f", step + 1, loss.item())
    return {"linear": before, "trained": codec_psnr(vae, validation)}


@torch.no_grad()
def codec_psnr(vae: AutoencoderSamaNano, engine: Engine, num_clips: int = 60) -> float:
    """Mean PSNR in dB of encoding and decoding clips of 9 frames at 128x128."""
    scores = []
    for index in range(num_clips):
        video = (as_tensor(engine.sample(index, 9, 128, 128).source) * 2 - 1).transpose(0, 1)[None]
        decoded = vae.decode(vae.encode(video).latent_dist.mode()).sample
        scores.append(float(-10 * torch.log10(((decoded - video) / 2).square().mean())))
    return float(np.mean(scores))


def export(trainer: NanoTrainer, vae: AutoencoderSamaNano, folder: Path) -> None:
    """Write the averaged weights in half precision as a pipeline folder."""
    from ..pipelines.pipeline_sama import SamaPipeline

    trainer.load_weights(trainer.ema)
    preset = PRESETS["nano"]
    pipe = SamaPipeline(
        transformer=trainer.transformer.half(),
        vae=vae.half(),
        text_encoder=trainer.text_encoder.half(),
        tokenizer=trainer.tokenizer,
        prompt_prefix="",
        max_sequence_length=TEXT_TOKENS,
        num_semantic_tokens=preset.num_semantic_tokens,
        native_area=preset.native_area,
        native_num_frames=preset.native_num_frames,
        default_num_inference_steps=preset.num_inference_steps,
        default_guidance_scale=preset.guidance_scale,
        default_flow_shift=SIGMA_SHIFT,
    )
    pipe.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of photographs for backgrounds")
    parser.add_argument("--videos", type=Path, help="a folder of films for backgrounds")
    parser.add_argument("--families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--out", type=Path, required=True, help="run folder: checkpoints, metrics, the result")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    engines = {}
    for split in ("train", "validation"):
        footage = None
        if arguments.images or arguments.videos:
            cache = arguments.out / "films"
            footage = Footage(images=arguments.images, videos=arguments.videos, split=split, cache=cache)
        engines[split] = Engine(split=split, families=tuple(arguments.families), loose=0.1, footage=footage)

    vae_folder = arguments.out / "linear_codec"
    if not vae_folder.exists():
        vae = AutoencoderSamaNano()
        fit_linear_codec(vae, engines["train"])
        vae.save_pretrained(vae_folder)
    vae = AutoencoderSamaNano.from_pretrained(vae_folder)
    trainer = NanoTrainer(arguments.out, vae, train_tokenizer(), engines["train"])
    trainer.resume()
    trainer.train(STAGES, engines["validation"])
    trainer.log({"codec": train_decoder(vae, engines["train"], engines["validation"])})
    export(trainer, vae, arguments.out / "nano")


if __name__ == "__main__":
    main()

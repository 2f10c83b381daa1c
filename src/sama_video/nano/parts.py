"""SAMA-Nano's parts before training: tokenizer, linear codec, transformer, text encoder; and its decoder after it.

`sama train nano` makes an untrained one by itself, with the autoencoder that ships; `python -m sama_video.nano.parts`
writes one with an autoencoder of its own, to `--out`, with `--widen` a trained one at twice its width, and with
`--finish` what ships of a run's export.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from ..models.autoencoder_sama_nano import PATCH_VALUES, AutoencoderSamaNano
from ..models.latents import encode_video, video_to_model_range
from ..models.presets import PRESETS
from ..models.transformer_sama import SamaTransformer3DModel
from ..pipelines.loading import load_pipeline
from ..pipelines.pipeline_sama import SamaPipeline
from ..pipelines.scope import NOTHING_YET
from ..synth.engine import Engine
from ..system.errors import UserError
from ..system.files import written_aside
from ..training.config import EngineConfig
from ..training.mixture import build_engine
from .decoder import DecoderScores, train_decoder, with_source_branch
from .widening import widened

logger = logging.getLogger(__name__)


def new_transformer(spreads: dict[str, list[float]], preset: str = "nano-narrow") -> SamaTransformer3DModel:
    """An untrained transformer of a nano's size, see `measure_spreads`."""
    transformer = SamaTransformer3DModel(**{**PRESETS[preset].transformer, **spreads})
    nn.init.normal_(transformer.type_embedding.weight, std=0.5)
    if transformer.position_embedding is not None:
        nn.init.normal_(transformer.position_embedding.weight, std=0.2)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return transformer


@torch.no_grad()
def start_some_heads_on_the_same_position(transformer: SamaTransformer3DModel, num_heads: int = 2) -> None:
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


def train_tokenizer(
    engine: Engine | None = None, num_samples: int = 20_000, vocab_size: int = 2048
) -> PreTrainedTokenizerFast:
    """A lower-casing BPE tokenizer of the engine's instructions and captions that falls back to bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    engine = engine or Engine()
    drafts = (engine.draft(index) for index in range(num_samples // 2))
    corpus = (text for draft in drafts for text in (draft.instruction, draft.target_caption))
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
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        model_max_length=PRESETS["nano"].settings.max_sequence_length,
    )


@torch.no_grad()
def measure_spreads(vae: AutoencoderSamaNano, engine: Engine, num_samples: int = 240) -> dict[str, list[float]]:
    """What a prediction around the source has to know of the latents, from pictures and clips of the engine in turn.

    Root mean squares per channel: of target latents less their source's, and of target latents.
    """
    residual, whole = [], []
    for index in range(num_samples):
        sample = engine.pair(index, 5 if index % 2 else 1, 128, 128)
        source, target = (
            encode_video(vae, video_to_model_range(torch.from_numpy(clip))) for clip in (sample.source, sample.target)
        )
        residual.append((target - source).square().mean(dim=(0, 2, 3, 4)))
        whole.append(target.square().mean(dim=(0, 2, 3, 4)))
    stds = (torch.stack(squares).mean(dim=0).sqrt().tolist() for squares in (residual, whole))
    residual_std, latents_std = ([round(std, 4) for std in each] for each in stds)
    return {"residual_std": residual_std, "latents_std": latents_std}


@torch.no_grad()
def fit_linear_codec(vae: AutoencoderSamaNano, engine: Engine, num_clips: int = 1000) -> None:
    """Set the encoder to the principal components of edited and unedited patches, and the latents' statistics.

    Latents are divided by the square root of a component's spread, not by the spread: full whitening would ask the
    transformer for grain of 1/100 of the brightness as loudly as for the brightness itself.
    """
    total = torch.zeros(PATCH_VALUES, dtype=torch.float64)
    products = torch.zeros(PATCH_VALUES, PATCH_VALUES, dtype=torch.float64)
    count = 0
    for index in range(num_clips):
        sample = engine.pair(index, 9, 128, 128)
        clip = torch.from_numpy(sample.target if index % 2 else sample.source)
        patches = vae.patchify(video_to_model_range(clip)).reshape(-1, PATCH_VALUES).double()
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


def new_nano(
    folder: Path,
    engine: Engine,
    *,
    codec: str | None = None,
    preset: str = "nano-narrow",
    seed: int = 0,
    as_wan: bool = False,
    num_texts: int = 20_000,
    num_latents: int = 240,
) -> None:
    """Write an untrained nano as a pipeline folder: tokenizer and linear codec are fitted, the rest is random.

    Args:
        codec: a model whose autoencoder is taken instead of a new one.
        preset: size of the transformer.
        seed: of what is random.
        as_wan: types say nothing yet and no head starts on the same position, so that every way to tell source and
            target apart begins alike.
        num_texts, num_latents: samples of the engine that the tokenizer and the spreads of latents are made from.
    """
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(engine, num_texts)
    text_encoder = new_text_encoder(len(tokenizer))
    if codec is None:
        vae = AutoencoderSamaNano(z_dim=PRESETS["nano"].transformer["in_channels"])
        fit_linear_codec(vae, engine)
    else:
        vae = load_pipeline(codec, device="cpu", dtype="float32").vae
    transformer = new_transformer(measure_spreads(vae, engine, num_latents), preset)
    if as_wan:
        transformer.reset_new_parts()
    else:
        start_some_heads_on_the_same_position(transformer)
    settings = replace(PRESETS[preset].settings, trained_for=NOTHING_YET)
    pipe = SamaPipeline(
        transformer=transformer, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, **vars(settings)
    )
    with written_aside(folder) as aside:
        pipe.save_pretrained(aside)


def widened_nano(trained: str, folder: Path) -> None:
    """Write a trained nano whose transformer is twice as wide and computes the same, to train it further."""
    pipe = load_pipeline(trained, device="cpu", dtype="float32")
    pipe.register_modules(transformer=widened(pipe.transformer))
    with written_aside(folder) as aside:
        pipe.save_pretrained(aside)


def finished_nano(
    trained: str, folder: Path, engine: Engine, validation: Engine, **training: Any
) -> dict[str, DecoderScores]:
    """Write a trained nano as it ships: its decoder trained too, everything in float16.

    Args:
        trained: pipeline folder, such as a run's export, or name of a model.
        engine, validation: what the decoder trains on, and what it is tried on; `training` goes to `train_decoder`,
            which resumes from a file beside `folder` after an interruption.

    Returns:
        As `train_decoder`.
    """
    pipe = load_pipeline(trained, device="cpu", dtype="float32")
    vae = with_source_branch(pipe.vae)
    checkpoint = folder.with_name(folder.name + "-decoder.pt")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scores = train_decoder(vae, engine, validation, checkpoint=checkpoint, **training)
    _write_in_half(pipe, vae, folder)
    checkpoint.unlink(missing_ok=True)
    return scores


def put_together(trained: str, decoder: str, folder: Path) -> None:
    """Write a trained nano as it ships, with the decoder that another one of the same encoder has.

    Raises:
        UserError: for a decoder of another encoder's latents.
    """
    pipe = load_pipeline(trained, device="cpu", dtype="float32")
    vae = load_pipeline(decoder, device="cpu", dtype="float32").vae
    # What ships is rounded to float16.
    if vae.config.latents_std != pipe.vae.config.latents_std or not torch.allclose(
        vae.components, pipe.vae.components, rtol=1e-3, atol=1e-4
    ):
        raise UserError(f"{decoder} has another encoder than {trained}; leave `--codec` out to train a decoder for it")
    _write_in_half(pipe, vae, folder)


def _write_in_half(pipe: SamaPipeline, vae: AutoencoderSamaNano, folder: Path) -> None:
    pipe.register_modules(vae=vae)
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
        part.half()
    with written_aside(folder) as aside:
        pipe.save_pretrained(aside)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="pipeline folder to write")
    parser.add_argument("--images", help="folder of photographs for backgrounds")
    parser.add_argument("--videos", help="folder of films for backgrounds")
    parser.add_argument(
        "--codec",
        help="take the autoencoder of this model, such as nano, instead of a new one; with "
        "--finish, its trained decoder instead of training one",
    )
    parser.add_argument("--widen", help="write this model at twice the width, to train it further")
    parser.add_argument("--finish", help="train the decoder of this model: a folder, or nano for the one that ships")
    return parser


def main() -> None:
    parser = _parser()
    try:
        _run(parser.parse_args())
    except UserError as error:
        parser.error(str(error))


def _run(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.widen is not None:
        if arguments.finish or arguments.codec or arguments.images or arguments.videos:
            raise UserError("--widen trains nothing; give --out alone beside it")
        widened_nano(arguments.widen, arguments.out)
        return
    if arguments.finish is not None and arguments.codec is not None:
        if arguments.images or arguments.videos:
            raise UserError("with --finish and --codec nothing is trained; leave --images and --videos out")
        put_together(arguments.finish, arguments.codec, arguments.out)
        return
    config = EngineConfig(num_samples=1, shapes=((1, 128, 128),), images=arguments.images, videos=arguments.videos)
    films = arguments.out.parent / "films"
    engine = build_engine(config, "train", films)
    if arguments.finish is None:
        new_nano(arguments.out, engine, codec=arguments.codec)
    else:
        scores = finished_nano(arguments.finish, arguments.out, engine, build_engine(config, "validation", films))
        for name, score in scores.items():
            logger.info("PSNR on validation, %s: %s", name, score)


if __name__ == "__main__":
    main()

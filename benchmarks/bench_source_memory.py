"""One step with the source's tokens kept from an earlier pass, against the same step that computes them.

At the true width of the 14B model and its ratio of lengths, with three layers and one latent frame; float32 and batch
1. "self" is exact: its largest difference to the model without a memory is printed.
"""

import torch
from common import compare, report, setting

from sama_video.models.presets import PRESETS
from sama_video.models.source_memory import SourceMemory
from sama_video.models.transformer_sama import SamaTransformer3DModel

LAYERS, FRAMES, HEIGHT, WIDTH, TEXT = 3, 1, 60, 104, 512  # 480x832 pixels; 1,560 tokens a latent frame


@torch.no_grad()
def main() -> None:
    print(setting())
    torch.manual_seed(0)
    config = PRESETS["wan2.1-14b"].transformer | {"num_layers": LAYERS}
    latents, source = torch.randn(2, 1, config["in_channels"], FRAMES, HEIGHT, WIDTH)
    streams = {
        "hidden_states": latents,
        "timestep": torch.tensor([700.0]),
        "encoder_hidden_states": torch.randn(1, TEXT, 4096),
        "source_hidden_states": source,
        "semantic_hidden_states": torch.randn(1, 65, 1152),
    }
    tokens = FRAMES * HEIGHT * WIDTH // 4
    print(f"width 5120, {LAYERS} layers, {tokens} source, 65 semantic and {tokens} target tokens, {TEXT} of text")
    for kind in ("self", "full"):
        model = SamaTransformer3DModel(**config, source_attention=kind).eval()
        torch.nn.init.normal_(model.type_embedding.weight, std=0.3)
        kept = SourceMemory()
        model(**streams, source_memory=kept)
        times = compare(lambda m=model, k=kept: m(**streams, source_memory=k), lambda m=model: m(**streams), rounds=3)
        report(f"{kind}, kept over computed", *times)
        print(f"  {1 / times[2]:.2f} times faster; the memory holds {kept.num_bytes / 2**20 / LAYERS:.0f} MiB a layer")
        difference = (model(**streams, source_memory=kept).sample - model(**streams).sample).abs().max()
        print(f"  largest difference {difference:.1e}")
        del model, kept


if __name__ == "__main__":
    main()

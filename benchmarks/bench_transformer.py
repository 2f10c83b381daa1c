"""One forward pass against stock diffusers Wan on the same number of tokens."""

import torch
from common import compare, report, setting
from diffusers import WanTransformer3DModel

from sama_video.models.transformer_sama import SamaTransformer3DModel

CONFIG = {
    "num_attention_heads": 4,
    "attention_head_dim": 128,
    "num_layers": 8,
    "ffn_dim": 2048,
    "text_dim": 512,
    "in_channels": 16,
    "out_channels": 16,
}


@torch.no_grad()
def main() -> None:
    print(setting())
    torch.manual_seed(0)
    sama, wan = SamaTransformer3DModel(**CONFIG).eval(), WanTransformer3DModel(**CONFIG).eval()
    text, timestep = torch.randn(1, 64, 512), torch.tensor([500.0])
    half = torch.randn(1, 16, 15, 20, 20)  # 15 x 10 x 10 = 1500 tokens
    whole = torch.randn(1, 16, 30, 20, 20)
    print("width 512, 8 layers, 2 x 1500 tokens, float32, batch 1; baseline: WanTransformer3DModel on 3000 tokens")
    report(
        "forward",
        *compare(lambda: sama(half, timestep, text, source_hidden_states=half), lambda: wan(whole, timestep, text)),
    )


if __name__ == "__main__":
    main()

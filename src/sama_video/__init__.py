"""SAMA: instruction-guided video editing with factorized semantic anchoring and motion alignment."""

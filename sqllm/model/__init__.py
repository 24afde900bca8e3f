"""The model: encoder, projector, language model, the answer tree, and its directory on disk."""

import logging
import warnings

# On import, peft brings bitsandbytes, which advises an extra kernel that only NF4 on a CPU would use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# peft's own use of transformers.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)

"""The model: encoder, projector, language model, the answer tree, and its directory on disk."""

import logging
import warnings

# On import, peft brings bitsandbytes, which advises an extra kernel that only NF4 on a CPU would use.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# Names that peft and transformers before 6 need.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)

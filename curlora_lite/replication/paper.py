"""What the CURLoRA paper published. Data only.

Source: M. Fawi, "CURLoRA: Stable LLM Continual Fine-Tuning and Catastrophic Forgetting
Mitigation", arXiv 2408.14572 (2024): Table 1, Table 2 and §4.5. Where the text gives no figure, the
stored outputs of the author's code (MNoorFawi/curlora, MIT) are named as the source.
"""

RANKS = (8, 16, 24)

# The rows of both tables: (task, stage after which it is measured). Stages count from 1.
# Perplexity, measured before and after everything, has no task.
ROWS = ((None, 0), ("mrpc", 1), ("sst2", 2), ("mrpc", 2), ("sentiment140", 3), ("mrpc", 3))
ROWS += (("sst2", 3), (None, 3))

SENTIMENT_TEST_ROWS = 498  # what the author's code trains on

MODELS = {"table1": "Mistral-7B-v0.3", "table2": "GPT-2 Large"}

# PUBLISHED[table][(method, rank)] lists the values of ROWS, in that order.
PUBLISHED = {
    "table1": {
        ("lora", 8): (5.44, 0.68, 0.51, 0.68, 1.00, 0.32, 0.49, 53896.68),
        ("curlora", 8): (5.44, 0.66, 0.86, 0.66, 0.94, 0.66, 0.86, 5.44),
        ("lora", 16): (5.44, 0.65, 0.51, 0.32, 1.00, 0.32, 0.49, 65055.02),
        ("curlora", 16): (5.44, 0.66, 0.86, 0.66, 0.94, 0.66, 0.86, 5.44),
        ("lora", 24): (5.44, 0.67, 0.49, 0.68, 1.00, 0.32, 0.49, 17049.72),
        ("curlora", 24): (5.44, 0.66, 0.86, 0.66, 0.94, 0.66, 0.86, 5.44),
    },
    "table2": {
        ("lora", 8): (28.25, 0.79, 0.94, 0.76, 0.92, 0.49, 0.90, 42.96),
        ("curlora", 8): (28.25, 0.70, 0.76, 0.70, 0.99, 0.70, 0.76, 28.25),
        ("lora", 16): (28.25, 0.81, 0.93, 0.78, 0.86, 0.73, 0.90, 43.62),
        ("curlora", 16): (28.25, 0.70, 0.79, 0.70, 0.99, 0.70, 0.79, 28.08),
        ("lora", 24): (28.25, 0.83, 0.92, 0.78, 0.93, 0.49, 0.88, 44.32),
        ("curlora", 24): (28.25, 0.70, 0.86, 0.70, 0.93, 0.70, 0.87, 28.25),
    },
}

# What the tables were trained and scored with (§6.2-6.3 and the author's code), to compare with.
_TABLE1 = {"learning_rate": 2.5e-4, "batch": 8, "max_length": 512, "text_tokens": 10_000}
_TABLE2 = {"learning_rate": 2.5e-4, "batch": 32, "max_length": 256, "text_tokens": 256}
SETTINGS = {"table1": _TABLE1, "table2": _TABLE2}
TRAIN_ROWS = {"table1": {"mrpc": 1000, "sst2": 1000, "sentiment140": 498}}
TRAIN_ROWS |= {"table2": {"mrpc": 3668, "sst2": 5024, "sentiment140": 498}}
EVAL_ROWS = {"mrpc": 408, "sst2": 872, "sentiment140": 1024}

# Majority-class accuracy of the paper's own evaluation sets: the largest class over the rows.
# MRPC validation 279/408, SST-2 validation 444/872, Sentiment140's first 1,024 rows: all one class.
MAJORITY = {"mrpc": 279 / 408, "sst2": 444 / 872, "sentiment140": 1.0}

# Trainable parameters: (model, method, rank) -> (count, source).
PARAMETERS = {
    ("Mistral-7B-v0.3", "full", None): (7_248_023_552, "§4.5"),
    ("Mistral-7B-v0.3", "lora", 16): (9_437_184, "§4.5"),
    ("Mistral-7B-v0.3", "curlora", 16): (24_576, "§4.5"),
    ("GPT-2 Large", "lora", 8): (1_474_560, "stored outputs"),
    ("GPT-2 Large", "curlora", 8): (2_304, "stored outputs"),
    ("GPT-2 Large", "curlora", 24): (20_736, "stored outputs"),
}

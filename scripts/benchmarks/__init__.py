# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""What scripts/benchmark.py measures, a file for each of its commands."""

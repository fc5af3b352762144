# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.
"""A model and images → answers: classes, features, for one picture or for all that there are."""

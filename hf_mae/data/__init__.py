# Copyright 2026 The hf_mae authors. Licensed under the Apache License, Version 2.0.

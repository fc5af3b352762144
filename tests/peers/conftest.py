def pytest_configure(config):
    """The marks of transformers' tests, which select nothing here."""
    for mark in (
        "accelerate_tests",
        "flash_attn_test",
        "flash_attn_3_test",
        "flash_attn_4_test",
        "generate",
        "torch_compile_test",
        "is_training_test",
    ):
        config.addinivalue_line("markers", f"{mark}: of transformers' own tests")

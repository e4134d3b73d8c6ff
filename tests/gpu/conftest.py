import os

# The files in interpreted/ run on numpy, in processes of their own: tests/gpu/test_interpreted.py.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]

# Leaves torch and what comes only with some of its wheels (CUDA libraries, triton) out of a lock
# file made by pip-compile: those differ by machine, so their hashes would fail elsewhere.
# What torch needs everywhere (sympy, networkx, jinja2, fsspec, filelock, ...) stays.
#
# A block is a line "name==version", then indented lines of hashes and of who asked for it.
/^[A-Za-z0-9]/ { differs = /^(torch|triton|pytorch-triton.*|nvidia-.*|cuda-.*)==/ }
/^#/ || /^$/ { differs = 0 }
!differs

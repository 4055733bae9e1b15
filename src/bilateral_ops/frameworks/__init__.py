"""How arrays of each framework are described, allocated and handed to the kernels; one module a framework."""

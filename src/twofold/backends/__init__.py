"""How the ops are computed: one package per kind of hardware; each speaks ops.interface.Ops."""

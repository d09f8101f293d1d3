"""The loader of eBPF programs: libbpf, its maps, and uprobes."""

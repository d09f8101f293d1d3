"""The loader of eBPF programs: libbpf, maps, and uprobes."""

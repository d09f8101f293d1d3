/* Attach the programs of floor.bpf.c, print "attached", and keep them until this process ends: `floor OBJECT`. */
#include <bpf/libbpf.h>
#include <stdio.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    struct bpf_object *object = count == 2 ? bpf_object__open_file(arguments[1], 0) : 0;
    struct bpf_program *program;
    if (!object || bpf_object__load(object))
        return 1;
    bpf_object__for_each_program (program, object)
        if (!bpf_program__attach(program))
            return 1;
    puts("attached");
    fflush(stdout);
    for (;;)
        pause();
}

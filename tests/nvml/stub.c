/* A stand-in for NVIDIA's management library, libnvidia-ml.so.1, that follows a script.
 *
 * It has the functions that gpubench asks for, under the names and with the structures of NVML's
 * API reference, so that the real binding (nvidia-ml-py) loads it as it would the real one. Its
 * cards say in their names that they are not real. The test compiles it; -DOLD_DRIVER leaves out
 * functions that older drivers lack.
 *
 * NVML_SCRIPT names a file of lines; without one, a sound card answers:
 *
 *   gpus N                      so many cards (1)
 *   mig                         each is cut, and MIG-0 is a slice of the first
 *   NAME[@GPU] = V1 V2 …        what NAME tells, call after call; the last value stays
 *   NAME[@GPU] ! CODE [AFTER]   it fails with CODE, from its call number AFTER (0) on
 *   *@GPU ! CODE [AFTER]        so does every call about that card, counted together: it is lost
 *
 * NAME is without its "nvmlDeviceGet" or "nvml".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_GPUS 8
#define MOST_RULES 64
#define MOST_VALUES 64

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

typedef int Return;
typedef unsigned long long Wide;
typedef struct Device {
    int gpu;
    int is_slice;
    long calls;
} *Handle;

typedef struct {
    char name[64];
    int gpu; /* -1: any */
    int error;
    long after;
    int count;
    double values[MOST_VALUES];
    long calls[MOST_GPUS + 1];
} Rule;

static Rule rules[MOST_RULES];
static int rule_count, gpu_count = 1, is_mig, is_open;
static struct Device gpus[MOST_GPUS], slice = {0, 1, 0};

static void read_line(char *line) {
    char name[64], kind = 0;
    int used = 0;
    if (sscanf(line, "gpus %d", &gpu_count) == 1) return;
    if (strncmp(line, "mig", 3) == 0) { is_mig = 1; return; }
    if (sscanf(line, "%63s %c%n", name, &kind, &used) != 2 || rule_count == MOST_RULES) return;
    Rule *rule = &rules[rule_count++];
    char *at = strchr(name, '@');
    rule->gpu = at ? atoi(at + 1) : -1;
    if (at) *at = 0;
    strcpy(rule->name, name);
    if (kind == '!') { sscanf(line + used, "%d %ld", &rule->error, &rule->after); return; }
    char *rest = line + used, *end;
    for (;; rest = end) {
        double value = strtod(rest, &end);
        if (end == rest || rule->count == MOST_VALUES) return;
        rule->values[rule->count++] = value;
    }
}

static void read_script(void) {
    const char *path = getenv("NVML_SCRIPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[1024];
    while (file && fgets(line, sizeof line, file)) read_line(line);
    if (file) fclose(file);
    for (int gpu = 0; gpu < MOST_GPUS; gpu++) gpus[gpu].gpu = gpu;
}

/* What a call tells: an error of the script, or its value of this call, or what a sound card has. */
static Return answer(const char *name, Handle device, double sound, double *told) {
    int gpu = device ? device->gpu : MOST_GPUS;
    if (device && (device->gpu < 0 || device->gpu >= gpu_count)) return INVALID_ARGUMENT;
    *told = sound;
    for (int i = 0; i < rule_count; i++) {
        Rule *rule = &rules[i];
        if (rule->gpu >= 0 && rule->gpu != gpu) continue;
        int all = strcmp(rule->name, "*") == 0;
        if (!(all && device) && strcmp(rule->name, name) != 0) continue;
        long call = rule->calls[gpu]++;
        if (rule->error && call >= rule->after) return rule->error;
        if (rule->count) *told = rule->values[call < rule->count ? call : rule->count - 1];
    }
    return SUCCESS;
}

#define TELLS(NAME, TYPE, SOUND)                                                                   \
    EXPORT Return nvmlDeviceGet##NAME(Handle device, TYPE *told) {                                 \
        double value;                                                                              \
        Return code = answer(#NAME, device, SOUND, &value);                                        \
        if (code == SUCCESS) *told = (TYPE)value;                                                  \
        return code;                                                                               \
    }
#define TELLS_OF(NAME, SOUND)                                                                      \
    EXPORT Return nvmlDeviceGet##NAME(Handle device, unsigned kind, unsigned *told) {              \
        double value;                                                                              \
        Return code = answer(#NAME, device, SOUND, &value);                                        \
        if (code == SUCCESS) *told = (unsigned)value;                                              \
        return code;                                                                               \
    }
#define TELLS_TWO(NAME, SOUND, SECOND)                                                             \
    EXPORT Return nvmlDeviceGet##NAME(Handle device, unsigned *one, unsigned *two) {               \
        double value;                                                                              \
        Return code = answer(#NAME, device, SOUND, &value);                                        \
        if (code == SUCCESS) { *one = (unsigned)value % 16; *two = (unsigned)(SECOND); }           \
        return code;                                                                               \
    }

TELLS(PowerUsage, unsigned, 250000)             /* mW */
TELLS(EnforcedPowerLimit, unsigned, 300000)
TELLS(PowerManagementDefaultLimit, unsigned, 300000)
TELLS(TotalEnergyConsumption, Wide, 1e6)        /* mJ */
TELLS(PersistenceMode, unsigned, 1)
TELLS(MaxPcieLinkGeneration, unsigned, 4)
TELLS(MaxPcieLinkWidth, unsigned, 16)
TELLS(CurrPcieLinkWidth, unsigned, 16)
TELLS(CurrPcieLinkGeneration, unsigned, 1)
TELLS(CurrentClocksThrottleReasons, Wide, 1)    /* idle */
TELLS(MemoryBusWidth, unsigned, 384)
TELLS_OF(MaxClockInfo, kind == 2 ? 9751 : 2100)   /* of the memory, of the others */
TELLS_OF(Temperature, kind == 0 ? 45 : 0)         /* of the chip, the only sensor there is */
TELLS_OF(TemperatureThreshold, kind == 1 ? 90 : kind == 0 ? 98 : 84) /* slowdown, shutdown, … */
TELLS_TWO(EccMode, 0, value / 16)               /* as it is, and 16 times as it will be */
TELLS_TWO(CudaComputeCapability, 8, 6)

/* In MHz, under the names "Clock" and "MemoryClock". */
EXPORT Return nvmlDeviceGetClockInfo(Handle device, unsigned kind, unsigned *told) {
    double value;
    int is_memory = kind == 2;
    const char *name = is_memory ? "MemoryClock" : "Clock";
    Return code = answer(name, device, is_memory ? 5000 : 1500, &value);
    if (code == SUCCESS) *told = (unsigned)value;
    return code;
}

#ifndef OLD_DRIVER
TELLS(CurrentClocksEventReasons, Wide, 1)
TELLS(GpuMaxPcieLinkGeneration, unsigned, 4)
TELLS_TWO(MigMode, is_mig, value / 16)

struct Temperature { unsigned version, sensor; int celsius; };

EXPORT Return nvmlDeviceGetTemperatureV(Handle device, struct Temperature *told) {
    double value;
    Return code = answer("TemperatureV", device, 45, &value);
    if (code == SUCCESS) told->celsius = (int)value;
    return code;
}
#endif

enum { POWER_INSTANT = 186, NOT_SUPPORTED = 3 };

struct Field {
    unsigned id, scope;
    long long at, latency;
    int type, code;
    union { unsigned number; Wide room; } value;
};

/* In mW, under the name "PowerInstant"; a driver before 530 doesn't know the field. */
EXPORT Return nvmlDeviceGetFieldValues(Handle device, int count, struct Field *told) {
    double value;
    for (int i = 0; i < count; i++) {
        told[i].code = told[i].id == POWER_INSTANT ? answer("PowerInstant", device, 250000, &value)
                                                   : NOT_SUPPORTED;
#ifdef OLD_DRIVER
        told[i].code = NOT_SUPPORTED;
#endif
        if (told[i].code == SUCCESS) told[i].value.number = (unsigned)value;
    }
    return SUCCESS;
}

struct Memory { Wide total, free, used; };

EXPORT Return nvmlDeviceGetMemoryInfo(Handle device, struct Memory *told) {
    double used;
    Return code = answer("MemoryInfo", device, 1 << 28, &used);
    Wide total = device->is_slice ? 5ULL << 30 : 24ULL << 30;
    if (code == SUCCESS) *told = (struct Memory){total, total - (Wide)used, (Wide)used};
    return code;
}

EXPORT Return nvmlDeviceGetBAR1MemoryInfo(Handle device, Wide *told) {
    double total;
    Return code = answer("BAR1MemoryInfo", device, 1 << 28, &total);
    if (code == SUCCESS) { told[0] = told[1] = (Wide)total; told[2] = 0; }
    return code;
}

struct Process { unsigned pid; Wide memory; unsigned gpu_instance, compute_instance; };

static Return processes(const char *name, Handle device, unsigned *room, struct Process *told) {
    double count;
    Return code = answer(name, device, 0, &count);
    if (code != SUCCESS) return code;
    unsigned given = *room;
    *room = (unsigned)count;
    if (*room == 0) return SUCCESS;
    if (told == NULL || given < *room) return INSUFFICIENT_SIZE;
    for (unsigned i = 0; i < *room; i++) told[i] = (struct Process){4000 + i, 1 << 20, 0, 0};
    return SUCCESS;
}

EXPORT Return nvmlDeviceGetComputeRunningProcesses_v2(Handle d, unsigned *n, struct Process *p) {
    return processes("ComputeRunningProcesses", d, n, p);
}
#ifndef OLD_DRIVER
EXPORT Return nvmlDeviceGetComputeRunningProcesses_v3(Handle d, unsigned *n, struct Process *p) {
    return processes("ComputeRunningProcesses", d, n, p);
}
#endif

EXPORT Return nvmlDeviceGetName(Handle device, char *told, unsigned length) {
    double odd;
    Return code = answer("Name", device, 0, &odd);
    const char *kind = device->is_slice ? "NVIDIA Stub MIG 1g.5gb" : "NVIDIA Stub";
    if (code == SUCCESS) snprintf(told, length, odd ? "\xff\xfe\x1b[31m" : "%s (not real)", kind);
    return code;
}

EXPORT Return nvmlDeviceGetUUID(Handle device, char *told, unsigned length) {
    double odd;
    Return code = answer("UUID", device, 0, &odd);
    if (code == SUCCESS)
        snprintf(told, length, "%s-%d", device->is_slice ? "MIG" : "GPU", device->gpu);
    return code;
}

EXPORT Return nvmlDeviceGetCount_v2(unsigned *told) {
    double value;
    Return code = answer("Count", NULL, gpu_count, &value);
    if (code == SUCCESS) *told = (unsigned)value;
    return code;
}

EXPORT Return nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *told) {
    double odd;
    if (index >= (unsigned)gpu_count) return INVALID_ARGUMENT;
    Return code = answer("HandleByIndex", &gpus[index], 0, &odd);
    if (code == SUCCESS) *told = &gpus[index];
    return code;
}

EXPORT Return nvmlDeviceGetHandleByUUID(const char *uuid, Handle *told) {
    double odd;
    Return code = answer("HandleByUUID", NULL, 0, &odd);
    if (code != SUCCESS) return code;
    if (is_mig && strcmp(uuid, "MIG-0") == 0) { *told = &slice; return SUCCESS; }
    int gpu = strncmp(uuid, "GPU-", 4) == 0 ? atoi(uuid + 4) : gpu_count;
    if (gpu >= gpu_count) return NOT_FOUND;
    *told = &gpus[gpu];
    return SUCCESS;
}

EXPORT Return nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Handle device, Handle *told) {
    if (!device->is_slice) return INVALID_ARGUMENT;
    *told = &gpus[0];
    return SUCCESS;
}

EXPORT Return nvmlSystemGetDriverVersion(char *told, unsigned length) {
    double branch;
    Return code = answer("DriverVersion", NULL, 580, &branch);
    if (code == SUCCESS) snprintf(told, length, "%.0f.65.06", branch);
    return code;
}

EXPORT Return nvmlSystemGetCudaDriverVersion_v2(int *told) {
    double value;
    Return code = answer("CudaDriverVersion", NULL, 13000, &value);
    if (code == SUCCESS) *told = (int)value;
    return code;
}

EXPORT Return nvmlInitWithFlags(unsigned flags) {
    double odd;
    (void)flags;
    if (!is_open) read_script();
    is_open = 1;
    return answer("Init", NULL, 0, &odd);
}

EXPORT Return nvmlShutdown(void) {
    double odd;
    return answer("Shutdown", NULL, 0, &odd);
}

EXPORT const char *nvmlErrorString(Return code) {
    (void)code;
    return "an error of the stub";
}

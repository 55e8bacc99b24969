/*
 * The load of `slurm.sh`: allocations of the mix of `fgpu bench cluster`, taken and given back.
 *
 *   slurm_load NODES DEVICES SECONDS THREADS SEED
 *
 * Every thread asks for allocations, one after another. Once more than 80 % of the devices are held
 * the oldest allocations are given back first. Prints a line a second: seconds, allocations, devices
 * (tenths) given so far, thousandths of the cluster held, CPU of the controller in milliseconds.
 */
#include <pthread.h>
#include <signal.h>
#include <slurm/slurm.h>
#include <slurm/slurm_errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RING 400000

struct held {
	uint32_t job;
	uint32_t tenths;
};

static struct held ring[RING];
static unsigned long head, tail;
static unsigned long jobs, containers, given, held_tenths, refused, capacity;
static volatile int over;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned devices_of_node;

static unsigned below(unsigned *seed, unsigned bound) { return rand_r(seed) % bound; }

/* What one draw of the mix asks for; returns tenths of devices, sets the number of containers. */
static unsigned draw(unsigned *seed, job_desc_msg_t *ask, char *tres, size_t size, unsigned *tasks)
{
	unsigned kind = below(seed, 100), devices = 1;
	*tasks = 1;
	ask->min_nodes = 1;
	if (kind < 80 || kind < 95)
		ask->max_nodes = 1;
	if (kind >= 60 && kind < 80) {
		unsigned tenths = 1 + below(seed, 5);
		snprintf(tres, size, "gres:shard:%u", tenths);
		ask->tres_per_node = tres;
		ask->num_tasks = 1;
		ask->cpus_per_task = 4;
		return tenths;
	}
	if (kind >= 80 && kind < 95)
		devices = 2 + below(seed, devices_of_node > 2 ? devices_of_node - 1 : 1);
	if (kind >= 95) {
		*tasks = 8 + below(seed, 57);
		snprintf(tres, size, "gres:gpu:1");
		ask->tres_per_task = tres;
		ask->num_tasks = *tasks;
		ask->cpus_per_task = 4;
		return *tasks * 10;
	}
	snprintf(tres, size, "gres:gpu:%u", devices);
	ask->tres_per_node = tres;
	ask->num_tasks = 1;
	ask->cpus_per_task = 4 * devices;
	return devices * 10;
}

static void give_back(void)
{
	struct held oldest;
	pthread_mutex_lock(&lock);
	int full = held_tenths * 10 > capacity * 8 && tail < head;
	if (full) {
		oldest = ring[tail++ % RING];
		held_tenths -= oldest.tenths;
	}
	pthread_mutex_unlock(&lock);
	if (full)
		slurm_kill_job(oldest.job, SIGKILL, 0);
}

static void *work(void *argument)
{
	unsigned seed = (unsigned)(uintptr_t)argument;
	char host[256] = "localhost";
	gethostname(host, sizeof(host) - 1);
	while (!over) {
		char tres[64];
		unsigned tasks;
		job_desc_msg_t ask;
		resource_allocation_response_msg_t *answer = NULL;
		slurm_init_job_desc_msg(&ask);
		ask.user_id = getuid();
		ask.group_id = getgid();
		ask.name = "bench";
		ask.work_dir = "/";
		ask.alloc_node = host;
		ask.pn_min_memory = MEM_PER_CPU | 8192;
		/* Given at once or refused: what waits would have to be asked for again and again. */
		ask.immediate = 1;
		unsigned tenths = draw(&seed, &ask, tres, sizeof(tres), &tasks);
		int failed = slurm_allocate_resources(&ask, &answer);
		pthread_mutex_lock(&lock);
		if (failed || !answer || !answer->node_list) {
			if (refused++ == 0)
				fprintf(stderr, "refused: %s\n", slurm_strerror(errno));
			pthread_mutex_unlock(&lock);
			usleep(1000);
		} else {
			ring[head++ % RING] = (struct held){answer->job_id, tenths};
			held_tenths += tenths;
			given += tenths;
			jobs++;
			containers += tasks;
			pthread_mutex_unlock(&lock);
		}
		if (answer)
			slurm_free_resource_allocation_response_msg(answer);
		give_back();
		give_back();
	}
	return NULL;
}

int main(int count, char **arguments)
{
	if (count != 6) {
		fprintf(stderr, "usage: slurm_load NODES DEVICES SECONDS THREADS SEED\n");
		return 2;
	}
	unsigned nodes = atoi(arguments[1]), seconds = atoi(arguments[3]);
	unsigned threads = atoi(arguments[4]), seed = atoi(arguments[5]);
	devices_of_node = atoi(arguments[2]);
	capacity = (unsigned long)nodes * devices_of_node * 10;
	slurm_init(NULL);
	pthread_t workers[64];
	if (threads > 64)
		threads = 64;
	for (unsigned i = 0; i < threads; i++)
		pthread_create(&workers[i], NULL, work, (void *)(uintptr_t)(seed * 1000 + i));
	struct timespec begin, now;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		usleep(200000);
		clock_gettime(CLOCK_MONOTONIC, &now);
		pthread_mutex_lock(&lock);
		printf("%.2f %lu %lu %lu %lu %lu\n",
		       (double)(now.tv_sec - begin.tv_sec) + (now.tv_nsec - begin.tv_nsec) / 1e9,
		       jobs, containers, given, held_tenths * 1000 / capacity, refused);
		pthread_mutex_unlock(&lock);
		fflush(stdout);
	} while (now.tv_sec - begin.tv_sec < (long)seconds);
	over = 1;
	for (unsigned i = 0; i < threads; i++)
		pthread_join(workers[i], NULL);
	return 0;
}

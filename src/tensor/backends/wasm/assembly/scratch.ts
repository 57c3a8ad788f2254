/** Where this thread's scratch memory starts: 4 MiB (SCRATCH_BYTES in plan.ts) that no other thread touches. The host sets it. */
export let scratch: usize = 0;

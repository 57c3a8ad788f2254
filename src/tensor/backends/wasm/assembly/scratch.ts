/** Where this thread's scratch memory starts: 4 MiB that no other thread touches. Set by the host in each instance. */
export let scratch: usize = 0;
export const SCRATCH_BYTES: usize = 4 << 20;

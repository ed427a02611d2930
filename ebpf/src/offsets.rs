//! Offsets of kernel struct members, resolved from BTF by the agent.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The member does not exist in this kernel.
pub const ABSENT: u32 = u32::MAX;

/// Where one offset comes from.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Field of [`Offsets`].
    pub field: &'static str,
    /// Kernel struct.
    pub container: &'static str,
    /// Path of members, separated by dots; alternatives of one step, newest first, by bars.
    pub path: &'static str,
    /// Whether the programs can do without it.
    pub optional: bool,
}

macro_rules! offsets {
    ($( $field:ident = $container:literal $path:literal $($optional:ident)?; )*) => {
        /// Byte offsets of kernel struct members; [`ABSENT`] where the kernel has none.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        pub struct Offsets {
            $(
                #[doc = concat!("`", $container, ".", $path, "`")]
                pub $field: u32,
            )*
        }

        impl Offsets {
            /// All absent.
            pub const NONE: Self = Self { $( $field: ABSENT, )* };
        }

        /// The members behind [`Offsets`], in order of its fields.
        pub const MEMBERS: &[Member] = &[
            $( Member {
                field: stringify!($field),
                container: $container,
                path: $path,
                optional: offsets!(@optional $($optional)?),
            }, )*
        ];
    };
    (@optional optional) => { true };
    (@optional) => { false };
}

offsets! {
    task_pid = "task_struct" "pid";
    task_tgid = "task_struct" "tgid";
    task_group_leader = "task_struct" "group_leader";
    task_start = "task_struct" "start_boottime|real_start_time";
    task_real_parent = "task_struct" "real_parent";
    task_cred = "task_struct" "cred";
    task_comm = "task_struct" "comm";
    task_exec_count = "task_struct" "self_exec_id";
    task_login_uid = "task_struct" "loginuid.val" optional;
    task_mm = "task_struct" "mm";
    task_fs = "task_struct" "fs";
    task_files = "task_struct" "files";
    task_signal = "task_struct" "signal";
    task_exit_code = "task_struct" "exit_code";
    task_nsproxy = "task_struct" "nsproxy";
    task_flags = "task_struct" "flags";
    task_stack = "task_struct" "stack";
    regs_bytes = "pt_regs" "sizeof";
    regs_code_segment = "pt_regs" "cs";
    task_thread_status = "task_struct" "thread_info.status" optional;
    cred_uid = "cred" "uid.val";
    cred_euid = "cred" "euid.val";
    cred_gid = "cred" "gid.val";
    cred_egid = "cred" "egid.val";
    cred_capabilities = "cred" "cap_effective";
    cred_permitted = "cred" "cap_permitted";
    cred_ambient = "cred" "cap_ambient";
    cred_user_namespace = "cred" "user_ns";
    signal_live = "signal_struct" "live.counter";
    signal_group_exit_code = "signal_struct" "group_exit_code";
    signal_pids = "signal_struct" "pids";
    pid_level = "pid" "level";
    pid_numbers = "pid" "numbers";
    upid_bytes = "upid" "sizeof";
    signal_tty = "signal_struct" "tty";
    tty_driver = "tty_struct" "driver";
    tty_index = "tty_struct" "index";
    driver_major = "tty_driver" "major";
    driver_minor = "tty_driver" "minor_start";
    nsproxy_mount = "nsproxy" "mnt_ns";
    nsproxy_pid = "nsproxy" "pid_ns_for_children";
    nsproxy_uts = "nsproxy" "uts_ns";
    nsproxy_ipc = "nsproxy" "ipc_ns";
    nsproxy_network = "nsproxy" "net_ns";
    nsproxy_cgroup = "nsproxy" "cgroup_ns";
    network_number = "net" "ns.inum";
    user_namespace_number = "user_namespace" "ns.inum";
    mount_namespace_number = "mnt_namespace" "ns.inum";
    pid_namespace_number = "pid_namespace" "ns.inum";
    mm_arg_start = "mm_struct" "arg_start";
    mm_arg_end = "mm_struct" "arg_end";
    mm_env_start = "mm_struct" "env_start";
    mm_env_end = "mm_struct" "env_end";
    fs_pwd = "fs_struct" "pwd";
    fs_root = "fs_struct" "root";
    path_mount = "path" "mnt";
    path_dentry = "path" "dentry";
    files_table = "files_struct" "fdt";
    table_max = "fdtable" "max_fds";
    table_files = "fdtable" "fd";
    file_path = "file" "f_path";
    file_inode = "file" "f_inode";
    file_mode = "file" "f_mode";
    file_flags = "file" "f_flags";
    file_private = "file" "private_data";
    inode_number = "inode" "i_ino";
    inode_super = "inode" "i_sb";
    inode_mode = "inode" "i_mode";
    inode_links = "inode" "i_nlink";
    inode_owner = "inode" "i_uid.val";
    inode_group = "inode" "i_gid.val";
    inode_rdev = "inode" "i_rdev";
    inode_changed = "inode" "i_ctime_sec|__i_ctime|i_ctime";
    inode_changed_ns = "inode" "i_ctime_nsec" optional;
    inode_modified = "inode" "i_mtime_sec|__i_mtime|i_mtime";
    inode_modified_ns = "inode" "i_mtime_nsec" optional;
    inode_bytes = "inode" "sizeof";
    inode_private = "inode" "i_private";
    super_magic = "super_block" "s_magic";
    super_device = "super_block" "s_dev";
    dentry_parent = "dentry" "d_parent";
    dentry_name = "dentry" "d_name.name";
    dentry_hash = "dentry" "d_name.hash";
    mount_vfs = "mount" "mnt";
    mount_parent = "mount" "mnt_parent";
    mount_point = "mount" "mnt_mountpoint";
    vfs_root = "vfsmount" "mnt_root";
    bprm_file = "linux_binprm" "file";
    bprm_filename = "linux_binprm" "filename";
    bprm_interpreter = "linux_binprm" "interp";
    bprm_descriptor_path = "linux_binprm" "fdpath" optional;
    socket_sock = "socket" "sk";
    sock_protocol = "sock" "sk_protocol";
    sock_family = "sock" "__sk_common.skc_family";
    sock_remote_port = "sock" "__sk_common.skc_dport";
    sock_local_port = "sock" "__sk_common.skc_num";
    sock_remote_v4 = "sock" "__sk_common.skc_daddr";
    sock_local_v4 = "sock" "__sk_common.skc_rcv_saddr";
    sock_remote_v6 = "sock" "__sk_common.skc_v6_daddr" optional;
    sock_local_v6 = "sock" "__sk_common.skc_v6_rcv_saddr" optional;
    regs_number = "pt_regs" "orig_ax";
    regs_di = "pt_regs" "di";
    regs_si = "pt_regs" "si";
    regs_dx = "pt_regs" "dx";
    regs_r10 = "pt_regs" "r10";
    regs_r8 = "pt_regs" "r8";
    regs_bx = "pt_regs" "bx";
    regs_cx = "pt_regs" "cx";
    regs_r9 = "pt_regs" "r9";
    regs_bp = "pt_regs" "bp";
    sock_type = "sock" "sk_type";
    tcp_received = "tcp_sock" "bytes_received" optional;
    tcp_sent = "tcp_sock" "bytes_sent" optional;
    tcp_sent_again = "tcp_sock" "bytes_retrans" optional;
    sock_error = "sock" "sk_err";
    sock_state = "sock" "__sk_common.skc_state";
    sock_flags = "sock" "__sk_common.skc_flags";
    filename_name = "filename" "name";
    request_opcode = "io_kiocb" "opcode" optional;
    request_flags = "io_kiocb" "flags" optional;
    request_descriptor = "io_kiocb" "cqe.fd" optional;
    request_file = "io_kiocb" "file" optional;
    request_open_directory = "io_open" "dfd" optional;
    request_open_name = "io_open" "filename" optional;
    request_open_flags = "io_open" "how" optional;
    request_unlink_directory = "io_unlink" "dfd" optional;
    request_unlink_name = "io_unlink" "filename" optional;
    request_unlink_flags = "io_unlink" "flags" optional;
    request_rename_old_directory = "io_rename" "old_dfd" optional;
    request_rename_new_directory = "io_rename" "new_dfd" optional;
    request_rename_old = "io_rename" "oldpath" optional;
    request_rename_new = "io_rename" "newpath" optional;
    request_mkdir_directory = "io_mkdir" "dfd" optional;
    request_mkdir_name = "io_mkdir" "filename" optional;
    request_mkdir_mode = "io_mkdir" "mode" optional;
    request_link_old_directory = "io_link" "old_dfd" optional;
    request_link_new_directory = "io_link" "new_dfd" optional;
    request_link_old = "io_link" "oldpath" optional;
    request_link_new = "io_link" "newpath" optional;
    request_connect_address = "io_connect" "addr" optional;
    request_async = "io_kiocb" "async_data" optional;
    request_send_buffer = "io_sr_msg" "buf" optional;
    request_send_len = "io_sr_msg" "len" optional;
    request_send_address = "io_sr_msg" "addr" optional;
    async_message_name = "io_async_msghdr" "msg.msg_name" optional;
    request_write_buffer = "io_rw" "addr" optional;
    request_write_len = "io_rw" "len" optional;
}

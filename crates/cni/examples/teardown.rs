//! Removes what the plugin left on this node, and tells what that was.

fn main() {
    println!("{:?}", terrarium_cni::teardown());
}

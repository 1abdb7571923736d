/* A page that is read from a disk may start no worker, and the search runs in one. Here a hidden frame stands in for it. */
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(url) {
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      this.inside = this.frame.contentWindow
      this.inside.postMessage = (data) => setTimeout(() => this.onmessage?.({ data }))
      const script = this.inside.document.createElement("script")
      this.loaded = new Promise((resolve) => { script.onload = resolve })
      script.onerror = (error) => this.onerror?.(error)
      script.src = url
      this.inside.document.body.append(script)
    }
    postMessage(data) { this.loaded.then(() => this.inside.onmessage({ data })) }
    terminate() { this.frame.remove() }
  }
}

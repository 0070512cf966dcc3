// A crew of threads that stays: work of tens of microseconds is split without starting threads anew.
//
//     Crew::get().run(threads, count, work)      work(task) for task = 0 .. count - 1, each once, in any order
//
// The caller works too. Whoever waits for work spins for a moment before it sleeps. One piece of work at a time: a caller
// that finds the crew busy does all of its own. A child of fork has no crew, so there the caller is alone.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace halfeven {

class Crew {
  public:
    static Crew& get() {
        static Crew* crew = new Crew();  // never destroyed: its threads may outlive static objects
        return *crew;
    }

    void run(int threads, std::size_t count, const std::function<void(std::size_t)>& work) {
        const bool alone = threads <= 1 || count <= 1 || process() != owner_;
        std::unique_lock<std::mutex> mine(busy_, std::defer_lock);
        if (alone || !mine.try_lock()) {
            for (std::size_t task = 0; task < count; ++task) work(task);
            return;
        }
        while (members_ + 1 < static_cast<std::size_t>(threads)) {
            std::thread(&Crew::wait, this, members_).detach();
            ++members_;
        }
        const auto job = std::make_shared<Job>(work, count, static_cast<std::size_t>(threads) - 1);
        {
            std::lock_guard<std::mutex> lock(door_);
            job_ = job;
            ++turn_;
        }
        bell_.notify_all();
        job->help();
        while (job->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
    }

  private:
    struct Job {
        Job(const std::function<void(std::size_t)>& what, std::size_t tasks, std::size_t most)
            : work(what), count(tasks), helpers(most) {}

        void help() {
            for (std::size_t task; (task = next.fetch_add(1)) < count;) {
                work(task);
                done.fetch_add(1, std::memory_order_release);
            }
        }

        const std::function<void(std::size_t)>& work;  // not touched after the last task is done
        const std::size_t count, helpers;
        std::atomic<std::size_t> next{0}, done{0};
    };

    void wait(std::size_t member) {
        std::uint64_t seen = 0;
        for (;;) {
            const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(100);
            while (turn_.load() == seen && std::chrono::steady_clock::now() < until) std::this_thread::yield();
            std::shared_ptr<Job> job;
            {
                std::unique_lock<std::mutex> lock(door_);
                bell_.wait(lock, [&] { return turn_.load() != seen; });
                seen = turn_.load();
                job = job_;
            }
            if (member < job->helpers) job->help();
        }
    }

    static long process() {
#if defined(_WIN32)
        return 0;
#else
        return static_cast<long>(getpid());
#endif
    }

    std::mutex busy_, door_;
    std::condition_variable bell_;
    std::shared_ptr<Job> job_;
    std::atomic<std::uint64_t> turn_{0};
    std::size_t members_ = 0;
    const long owner_ = process();
};

}  // namespace halfeven
